"""Groups of deliveries: each tenant has its own limit at the target, and none waits for another."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.alone import NO_REDIS
from tests.support.commands import run_toril
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.gateway import TOKEN
from tests.support.postgres import PostgresProcess
from tests.support.tokens import bearer, token
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

GROUPED = {"group_by": "labels.tenant", "group": {"concurrency": 1}}


class Place:
    """One toril with the target billing, whose requests stop at the gate if they are of the noisy tenant.

    `file` is its configuration, `more` is there beside the targets, and `lose_the_jobs` removes everything of the
    target's queue except its settings.
    """

    def __init__(
        self,
        file: Path,
        endpoint: Endpoint,
        toril: TorilProcess,
        more: dict[str, Any],
        lose_the_jobs: Callable[[], object],
    ) -> None:
        self._file = file
        self._more = more
        self.lose_the_jobs = lose_the_jobs
        self.endpoint = endpoint
        self.toril = toril
        self.door = Door(toril.gateway)
        self.most: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self.gate = endpoint.gate()
        endpoint.behaviour = self._behave

    async def _behave(self, call: Call) -> Answer:
        name = call.target.strip("/")
        self._running[name] += 1
        self.most[name] = max(self.most[name], self._running[name])
        if name == "noisy":
            await self.gate.passed()
        self._running[name] -= 1
        return respond(410 if name == "failing" and self.calls("failing") == 1 else 200)

    def write(self, **keys: Any) -> Path:
        """The configuration, with these keys of the target."""
        targets = {"billing": {"url": self.endpoint.at("/")} | keys}
        tokens = [token("queues", ["queues:*"])]
        return configuration(self._file, targets, delivery={"recover_every": "1s"}, tokens=tokens, **self._more)

    def enqueue(self, tenant: str | None) -> str:
        """A delivery of a tenant; its path says whose it is, and its label, unless it has none."""
        labels = {} if tenant is None else {"tenant": tenant}
        return self.door.enqueue("billing", path=f"/{tenant or '-'}", labels=labels)

    def delivered(self, jobs: list[str]) -> None:
        for job_id in jobs:
            eventually(
                lambda: self.door.job(job_id)["status"] == "delivered",  # noqa: B023 - it is called at once
                timeout_s=60,
                what=f"{job_id} to be delivered",
            )

    def group(self, name: str) -> dict[str, Any]:
        answer = self.door.http.get(f"/queues/deliver-billing/groups/{name}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def calls(self, tenant: str) -> int:
        return sum(call.target == f"/{tenant}" for call in self.endpoint.calls)


@pytest.fixture(params=["redis", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    prefix = f"groups-{tmp_path.name}"
    if request.param == "redis":
        valkey: ValkeyProcess = request.getfixturevalue("valkey")
        url, more = valkey.url, {"ledger": {"url": f"sqlite:///{tmp_path}/ledger.sqlite3"}}

        def lose_the_jobs() -> object:
            client = valkey.client()
            names = [name for name in client.keys(f"{prefix}:deliver-billing:*") if not name.endswith(":meta")]
            return client.delete(*names)
    else:
        postgres: PostgresProcess = request.getfixturevalue("postgres")
        ledger = postgres.database()
        url, more = NO_REDIS.url, {"ledger": {"url": ledger}, "redis": "none"}

        def lose_the_jobs() -> object:
            return postgres.psql("TRUNCATE toril_jobs, toril_groups, toril_members", ledger.rpartition("/")[2])

    with Endpoint() as endpoint:
        file = tmp_path / "toril.yaml"
        args = ["--config", str(file)]
        toril = TorilProcess(url, tmp_path / "toril.log", args=args, env={"QUEUE_PREFIX": prefix})
        made = Place(file, endpoint, toril, more, lose_the_jobs)
        made.write(**GROUPED)
        with toril:
            made.door = Door(toril.gateway)
            yield made
            made.gate.open()
        assert toril.complaints() == []


def test_a_tenant_has_one_request_at_the_target_and_others_go_on(place: Place) -> None:
    noisy = [place.enqueue("noisy") for _ in range(6)]
    quiet = [place.enqueue(name) for name in ("a", "b", None) for _ in range(3)]
    place.delivered(quiet)
    assert place.calls("noisy") == 1, "the others overtook it"
    shown = place.group("noisy")
    assert (shown["waiting"], shown["active"], shown["effective"]["concurrency"]) == (5, 1, 1)
    place.gate.open()
    place.delivered(noisy)
    assert place.most["noisy"] == place.most["a"] == place.most["b"] == 1


def test_a_full_group_is_refused_and_nothing_of_it_is_in_the_ledger(place: Place) -> None:
    answer = place.door.http.put("/queues/deliver-billing/groups/noisy", json={"concurrency": 1, "max_waiting": 1})
    assert answer.status_code == 200, answer.text
    first = place.enqueue("noisy")
    place.endpoint.wait_for_calls(1)
    second = place.enqueue("noisy")
    refused = place.door.post({"target": "billing", "labels": {"tenant": "noisy"}}, "key")
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "group_full", "1")
    batch = place.door.http.post(
        "/enqueue/batch",
        json=[{"target": "billing", "path": f"/{name}", "labels": {"tenant": name}} for name in ("noisy", "a")],
    ).json()
    assert len(place.door.jobs()) == 3, batch
    place.gate.open()
    place.delivered([first, second])
    assert place.door.post({"target": "billing", "labels": {"tenant": "noisy"}}, "key").status_code == 202


def test_envelopes_at_the_same_moment_do_not_pass_max_waiting_together(place: Place) -> None:
    first = place.enqueue("noisy")
    place.endpoint.wait_for_calls(1)
    limits = {"concurrency": 1, "max_waiting": 5}
    assert place.door.http.put("/queues/deliver-billing/groups/noisy", json=limits).status_code == 200
    envelope = {"target": "billing", "path": "/noisy", "labels": {"tenant": "noisy"}}
    with ThreadPoolExecutor(20) as callers:
        answers = list(callers.map(lambda _: place.door.post(envelope), range(20)))
    assert Counter(answer.status_code for answer in answers) == {202: 5, 429: 15}
    assert place.group("noisy")["waiting"] == 5
    place.gate.open()
    place.delivered([first, *(answer.json()["job_id"] for answer in answers if answer.status_code == 202)])


def test_the_group_of_an_envelope_wins_over_the_label_and_is_shown(place: Place) -> None:
    acme = {"id": "acme", "priority": 2}
    held = place.door.enqueue("billing", path="/noisy", labels={"tenant": "other"}, group=acme)
    place.endpoint.wait_for_calls(1)
    batch = place.door.http.post(
        "/enqueue/batch", json=[{"target": "billing", "path": "/noisy", "group": {"id": "acme"}}]
    ).json()
    second = batch[0]["job_id"]
    eventually(lambda: place.group("acme")["waiting"] == 1, what="the second waits")
    assert (place.group("acme")["active"], place.group("other")["active"]) == (1, 0)
    listed = {job["job_id"]: job["group"] for job in place.door.http.get("/jobs").json()["jobs"]}
    assert listed == {held: acme, second: {"id": "acme", "priority": 0}}
    assert place.door.job(held)["group"] == acme
    place.gate.open()
    place.delivered([held, second])
    assert place.most["noisy"] == 1


def test_the_group_of_an_envelope_stays_over_a_lost_queue_and_a_replay(place: Place) -> None:
    failing = place.door.enqueue("billing", path="/failing", group={"id": "f"})
    eventually(lambda: place.door.job(failing)["status"] == "dead_lettered", what="the dead letter")
    assert place.door.http.post("/targets/billing/pause").is_success
    waiting = place.door.enqueue("billing", path="/a", group={"id": "noisy", "priority": 1})
    eventually(lambda: place.group("noisy")["waiting"] == 1, what="one waits")
    place.lose_the_jobs()
    eventually(lambda: place.group("noisy")["waiting"] == 1, timeout_s=60, what="it is back in its group")
    place.door.http.post("/targets/billing/dead-letters/replay", json={"job_ids": [failing]})
    eventually(lambda: place.group("f")["waiting"] == 1, what="the replayed one waits in its group")
    assert place.door.http.post("/targets/billing/resume").is_success
    place.delivered([waiting, failing])
    assert place.calls("failing") == 2


def test_a_drained_group_is_cancelled_in_the_ledger_and_does_not_come_back(place: Place) -> None:
    assert place.door.http.post("/targets/billing/pause").is_success
    drained = [place.enqueue("noisy") for _ in range(60)]
    other = place.enqueue("a")
    eventually(lambda: place.group("noisy")["waiting"] == 60, what="all wait")
    answer = place.door.http.post("/queues/deliver-billing/groups/noisy/drain")
    assert (answer.status_code, answer.json()) == (200, {"removed": 60})
    listed = place.door.http.get("/jobs", params={"limit": 100}).json()["jobs"]
    assert Counter(job["status"] for job in listed) == {"cancelled": 60, "queued": 1}
    assert place.door.job(drained[0])["transitions"][-1]["by"] == "AUTH_TOKENS", "the caller's name"
    place.lose_the_jobs()
    eventually(lambda: place.group("a")["waiting"] == 1, timeout_s=60, what="the recoverer has put back the other")
    assert place.group("noisy")["waiting"] == 0
    assert place.door.http.post("/targets/billing/resume").is_success
    place.delivered([other])
    assert place.calls("noisy") == 0


def test_the_commands_of_operators_know_the_groups_of_a_target(place: Place) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        env = {"HOME": "/tmp", "TORIL_URL": place.toril.url, "TORIL_TOKEN": TOKEN}
        done = run_toril("groups", *arguments, env=env)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    queue = "deliver-billing"
    assert "no group has jobs or limits" in run("ls", queue)
    assert place.door.http.post("/targets/billing/pause").is_success
    jobs = [place.door.enqueue("billing", group={"id": "👩\u200d👧"}) for _ in range(2)]
    assert "is paused" in run("pause", queue, "a/b")
    assert "concurrency  3" in run("set", queue, "a/b", "--concurrency", "3")
    assert "paused" in run("show", queue, "a/b")
    assert "has no limits now" in run("reset", queue, "a/b")
    assert "2 jobs removed" in run("drain", queue, "👩\u200d👧", "--yes")
    assert [place.door.job(one)["status"] for one in jobs] == ["cancelled"] * 2
    assert "billing" in run("drain", "deliver-biling", "a", "--yes", status=1), "it says which name comes near"


def test_draining_deliveries_needs_the_right_to_cancel_them(place: Place) -> None:
    assert place.door.http.post("/targets/billing/pause").is_success
    place.enqueue("noisy")
    eventually(lambda: place.group("noisy")["waiting"] == 1, what="it waits")
    path = "/queues/deliver-billing/groups/noisy/drain"
    answer = place.door.http.post(path, headers=bearer("queues-secret"))
    assert (answer.status_code, place.group("noisy")["waiting"]) == (403, 1)


def test_a_reload_changes_the_limits_at_once(place: Place) -> None:
    noisy = [place.enqueue("noisy") for _ in range(3)]
    place.endpoint.wait_for_calls(1)
    eventually(lambda: place.group("noisy")["waiting"] == 2, what="two wait")
    place.write(group_by="labels.tenant", group={"concurrency": 3})
    answer = place.toril.client.post("/reload", timeout=30).json()
    assert (answer["applied"], answer["pending_rollout"]) == (["targets.billing.group"], [])
    place.endpoint.wait_for_calls(3)
    assert place.most["noisy"] == 3
    place.gate.open()
    place.delivered(noisy)
