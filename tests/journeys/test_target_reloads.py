"""Targets whose configuration changes while deliveries are under way: each row of the table of wire/delivery.md."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deliveries import Door
from tests.support.endpoint import Call, Endpoint, respond
from tests.support.ports import free_port
from tests.support.tokens import ask, token
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

PATIENCE_S = 60.0
ENDED = {"delivered", "dead_lettered", "cancelled"}
OLD_KEY, NEW_KEY = b"o" * 32, b"n" * 32


def webhook(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


class Place:
    """One toril with two targets, whose configuration each test changes and puts back."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.file = folder / "toril.yaml"
        self.toril: TorilProcess
        self.door: Door

    def base(self) -> dict[str, Any]:
        """The configuration that everything begins with."""
        return {
            "ledger": {"url": f"sqlite:///{self.folder}/ledger.sqlite3"},
            "delivery": {"janitor_every": "200ms"},
            "tokens": [token("watcher", ["targets:read"], ["billing"])],
            "targets": {
                "billing": {
                    "url": self.endpoint.at("/"),
                    "retry": {"base": "50ms", "max": "50ms", "max_attempts": 10_000},
                    "breaker": {"failures": 1000, "window": "1s"},
                    "auth": {"scheme": "bearer", "secret_file": str(self.folder / "secrets" / "bearer")},
                    "signing": {"secret_file": str(self.folder / "secrets" / "signing")},
                },
                "plain": {"url": self.endpoint.at("/plain")},
            },
        }

    def secrets(self, **content: str) -> None:
        """Mount secrets as Kubernetes does: links to links into a folder, which is swapped in one step."""
        mount = self.folder / "secrets"
        mount.mkdir(exist_ok=True)
        version = f"..{len(list(mount.iterdir()))}"
        (mount / version).mkdir()
        for name, text in content.items():
            (mount / version / name).write_text(text)
            if not (mount / name).is_symlink():
                (mount / name).symlink_to(f"..data/{name}")
        (mount / "..new").symlink_to(version)
        (mount / "..new").replace(mount / "..data")

    def write(self, document: dict[str, Any]) -> None:
        other = self.file.with_suffix(".new")
        other.write_text(yaml.safe_dump(document))
        other.replace(self.file)

    def reload(self, document: dict[str, Any] | None = None) -> dict[str, Any]:
        """Put a configuration in place, have it read, and hear what that came to."""
        if document is not None:
            self.write(document)
        answer = self.toril.client.post("/reload", timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def billing(self, **keys: Any) -> dict[str, Any]:
        """The configuration with some keys of billing changed; None takes one out."""
        document = self.base()
        target = document["targets"]["billing"] | keys
        document["targets"]["billing"] = {key: value for key, value in target.items() if value is not None}
        return document

    def ended(self, job_id: str) -> dict[str, Any]:
        return eventually(
            lambda: found if (found := self.door.job(job_id))["status"] in ENDED else None,
            timeout_s=PATIENCE_S,
            what=f"the end of {job_id}",
        )

    def call_of(self, job_id: str) -> Call:
        """The last call of a job, which has been delivered."""
        assert self.ended(job_id)["status"] == "delivered"
        return [call for call in self.endpoint.calls if call.header("toril-job-id") == job_id][-1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("reloads")
    with Endpoint() as endpoint:
        place = Place(folder, endpoint)
        place.secrets(bearer="old-secret", signing=webhook(OLD_KEY))
        place.write(place.base())
        # Other modules share the Valkey, and have a target called billing too.
        env = {"QUEUE_PREFIX": "reloads"}
        with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(place.file)], env=env) as toril:
            place.toril, place.door = toril, Door(toril.gateway)
            yield place
            assert toril.complaints() == []
            assert "old-secret" not in toril.log()
            assert "new-secret" not in toril.log()


@pytest.fixture
def place(shared: Place) -> Place:
    """The shared place, as it was in the beginning."""
    shared.endpoint.behaviour = lambda _: respond()
    shared.secrets(bearer="old-secret", signing=webhook(OLD_KEY))
    assert shared.reload(shared.base())["pending_rollout"] == []
    return shared


# What applies at once


def test_a_delivery_in_the_middle_of_its_retries_takes_the_new_policy_at_its_next_verdict(place: Place) -> None:
    place.endpoint.behaviour = lambda _: respond(503)
    job_id = place.door.enqueue("billing")
    eventually(lambda: place.door.job(job_id)["attempts_made"] >= 2, timeout_s=PATIENCE_S)
    assert place.reload(place.billing(retry={"max_attempts": 1}))["pending_rollout"] == []
    found = place.ended(job_id)
    assert (found["status"], found["transitions"][-1]["reason"]) == ("dead_lettered", "attempts")
    assert found["attempts_made"] < 10_000


def test_a_new_rate_limit_counts_for_the_next_attempts(place: Place) -> None:
    place.reload(place.billing(rate_limit={"max": 1, "per": "700ms"}))
    jobs = [place.door.enqueue("billing") for _ in range(3)]
    times = sorted(place.call_of(job_id).at for job_id in jobs)
    assert min(later - sooner for sooner, later in pairwise(times)) > 0.5
    assert place.reload(place.base())["pending_rollout"] == []
    assert place.ended(place.door.enqueue("billing"))["status"] == "delivered"


def test_a_new_retention_applies_to_deliveries_already_finished(place: Place) -> None:
    job_id = place.door.enqueue("billing")
    place.ended(job_id)
    place.reload(place.billing(retention={"delivered": "0s"}))
    eventually(lambda: place.toril.client.get(f"/jobs/{job_id}").status_code == 404, timeout_s=PATIENCE_S)


def test_bodies_go_to_the_new_store_and_come_back_from_the_old_one(place: Place) -> None:
    one, two = place.folder / "one", place.folder / "two"
    jobs = []
    for store in (one, two, None):
        payloads = {} if store is None else {"payloads": {"url": f"file://{store}", "threshold": 10}}
        assert place.reload(place.base() | payloads)["pending_rollout"] == []
        jobs.append(place.door.enqueue("plain", body={"pad": "x" * 1000, "store": str(store)}, delay_ms=3_000))
    for store in (one, two):
        assert len([path for path in store.rglob("*") if path.is_file()]) == 1
    for job_id, store in zip(jobs, (one, two, None), strict=True):
        assert json.loads(place.call_of(job_id).body)["store"] == str(store)


def test_a_new_largest_body_counts_for_the_next_envelope(place: Place) -> None:
    envelope = {"target": "plain", "body": "x" * 2000}
    assert place.door.post(envelope).status_code == 202
    place.reload(place.base() | {"max_body": 1000})
    assert place.door.post(envelope).status_code == 413


def test_a_secret_whose_file_changes_is_used_without_a_reload_request(place: Place) -> None:
    assert place.call_of(place.door.enqueue("billing")).header("authorization") == "Bearer old-secret"
    place.secrets(bearer="new-secret", signing=webhook(OLD_KEY))

    def sent() -> bool:
        return place.call_of(place.door.enqueue("billing")).header("authorization") == "Bearer new-secret"

    eventually(sent, timeout_s=PATIENCE_S)


def test_signing_secrets_rotate(place: Place) -> None:
    place.secrets(bearer="old-secret", signing=f"{webhook(NEW_KEY)}\n{webhook(OLD_KEY)}")
    place.reload()
    call = place.call_of(place.door.enqueue("billing", body={"a": 1}))
    signed = f"{call.header('webhook-id')}.{call.header('webhook-timestamp')}.".encode() + call.body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in (NEW_KEY, OLD_KEY)
    ]
    assert call.header("webhook-signature") == " ".join(signatures)


def test_a_secret_that_vanishes_is_still_sent_and_a_missing_new_one_is_a_fault(place: Place) -> None:
    mount = place.folder / "secrets"
    (mount / "bearer").unlink()
    try:
        assert place.reload()["secrets_kept"] == [str(mount / "bearer")]
        assert place.call_of(place.door.enqueue("billing")).header("authorization") == "Bearer old-secret"
        # It is kept for what runs, and only there: a new configuration has to find what it names.
        elsewhere = {"scheme": "bearer", "secret_file": str(mount / "nothing")}
        place.write(place.billing(auth=elsewhere))
        answer = place.toril.client.post("/reload", timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (422, "config_invalid")
        assert str(mount / "nothing") in answer.json()["faults"][0]
        assert place.call_of(place.door.enqueue("billing")).header("authorization") == "Bearer old-secret"
    finally:
        (mount / "bearer").symlink_to("..data/bearer")


# What needs a rollout

WAITS: dict[str, tuple[Callable[[Place], dict[str, Any]], str]] = {
    "timeout": (lambda place: place.billing(timeout={"total": "1s"}), "targets.billing.timeout"),
    "breaker": (lambda place: place.billing(breaker={"failures": 1}), "targets.billing.breaker"),
    "breaker off": (lambda place: place.billing(breaker="off"), "targets.billing.breaker"),
    "concurrency": (lambda place: place.billing(concurrency=1), "targets.billing.concurrency"),
    "url": (lambda place: place.billing(url=f"http://127.0.0.1:{free_port()}/"), "targets.billing.url"),
    "auth scheme": (lambda place: place.billing(auth={"scheme": "none"}), "targets.billing.auth"),
    "signing off": (lambda place: place.billing(signing=None), "targets.billing.signing"),
    "a target less": (
        lambda place: place.base() | {"targets": {"plain": place.base()["targets"]["plain"]}},
        "targets.billing",
    ),
    "ledger": (lambda place: place.base() | {"ledger": {"url": "none"}}, "ledger.url"),
}


@pytest.mark.parametrize("row", WAITS)
def test_a_change_that_needs_a_rollout_is_named_and_not_applied(place: Place, row: str) -> None:
    edit, key = WAITS[row]
    before = place.toril.client.get("/targets/billing").json()
    assert before["pending_rollout"] == []
    assert place.reload(edit(place))["pending_rollout"] == [key]
    shown = place.toril.client.get("/targets/billing").json()
    assert shown["config"] == before["config"]
    assert shown["config_generation"] == before["config_generation"] + 1
    assert shown["pending_rollout"] == ([] if key == "ledger.url" else [key])
    assert place.toril.client.get("/targets").json()["pending_rollout"] == [key]
    # Who may see this target alone hears of it alone.
    seen = ask(place.toril.url, "watcher-secret", "GET", "/targets").json()["pending_rollout"]
    assert seen == shown["pending_rollout"]
    call = place.call_of(place.door.enqueue("billing", body={"a": 1}))
    assert call.header("authorization") == "Bearer old-secret"
    assert call.header("webhook-signature") is not None
    assert place.reload(place.base())["pending_rollout"] == []
    assert place.toril.client.get("/targets").json()["pending_rollout"] == []


def test_a_new_target_is_not_there_before_the_rollout(place: Place) -> None:
    document = place.base()
    document["targets"]["new"] = {"url": place.endpoint.at("/")}
    assert place.reload(document)["pending_rollout"] == ["targets.new"]
    answer = place.door.post({"target": "new"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_target")


def test_a_mixed_edit_applies_the_part_that_needs_no_restart(place: Place) -> None:
    place.endpoint.behaviour = lambda _: respond(503)
    job_id = place.door.enqueue("billing")
    document = place.billing(retry={"max_attempts": 1}, concurrency=3)
    assert place.reload(document)["pending_rollout"] == ["targets.billing.concurrency"]
    assert place.ended(job_id)["status"] == "dead_lettered"
    config = place.toril.client.get("/targets/billing").json()["config"]
    assert (config["retry"]["max_attempts"], config["concurrency"]) == (1, 20)
