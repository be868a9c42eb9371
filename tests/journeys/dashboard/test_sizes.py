"""With a million jobs in a queue and 10,000 queues, each page has its first content soon, and Redis is never blocked.

The pages are taken by their calls to the API, those that they make first. What a call takes is bounded by what it asks
of Redis: how many commands, none of which may block it for 10 ms.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.deliveries import configuration
from tests.support.sizes import fill, make_queues, unblocked, watched
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.dashboard import routes as dashboard

MILLION = 1_000_000
QUEUES = 10_000
SCANS = 2_000
"""At least as many as it takes to read all keys, a thousand at a time, some of them twice."""
ENDED = 50_000
STATIC = Path(dashboard.__file__).parent / "static"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sizes")


@pytest.fixture(scope="module")
def valkey(folder: Path) -> Iterator[ValkeyProcess]:
    """A Valkey with a million jobs that wait, some in other states, and 10,000 more queues."""
    with ValkeyProcess(folder / "valkey", config={"save": ""}) as server:
        store = server.client()
        make_queues(store, QUEUES)
        fill(store, "big", wait=MILLION)
        fill(store, "ended", completed=ENDED, failed=ENDED, delayed=ENDED)
        yield server


@pytest.fixture(scope="module")
def store(valkey: ValkeyProcess) -> redis.Redis:
    return valkey.client()


@pytest.fixture(scope="module")
def toril(folder: Path, valkey: ValkeyProcess) -> Iterator[TorilProcess]:
    file = configuration(folder / "toril.yaml", {"billing": "http://127.0.0.1:9/"}, ledger={"url": "none"})
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as server:
        server.gateway.http.timeout = 120
        yield server
    assert server.complaints() == []


def get(toril: TorilProcess, path: str, **query: Any) -> Any:
    answer = toril.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_list_of_queues_begins_before_all_keys_are_read(toril: TorilProcess, store: redis.Redis) -> None:
    """The first of these tests: Redis has 1.3 million keys, and toril has just started."""
    with watched(store) as asked:
        get(toril, "/queues", limit=50)
    # A quarter of a second of SCAN, which a fast machine takes up to 1,300 times, and the depths of one page of queues.
    assert asked.commands < SCANS + 50 * 12, "10,000 queues take over 100,000"


# What the pages ask for first, and how many commands of Redis that may take beside what runs anyway.
PAGES: dict[str, tuple[dict[str, Any], int]] = {
    "whoami": ({}, 50),
    "queues": ({"limit": 50}, SCANS + 50 * 12),
    "queues ": ({"match": "*999*", "limit": 50}, SCANS + 50 * 12),
    "queues/big": ({}, 100),
    "queues/big/rate-limit": ({}, 50),
    "queues/big/groups": ({"limit": 50}, 50),
    "queues/big/schedulers": ({"length": 1}, 50),
    "queues/big/jobs": ({"statuses": "waiting", "start": 0, "length": 25, "order": "newest"}, 200),
    "queues/big/jobs ": ({"statuses": "waiting", "start": MILLION // 2, "length": 25, "order": "newest"}, 200),
    "queues/big/jobs  ": ({"statuses": "waiting", "start": MILLION // 2, "length": 25, "order": "oldest"}, 200),
    "queues/big/jobs   ": ({"statuses": "waiting", "start": MILLION - 25, "length": 25, "order": "newest"}, 200),
    "queues/ended/jobs": ({"statuses": "completed", "start": ENDED // 2, "length": 25, "order": "newest"}, 200),
    "queues/ended/jobs ": ({"statuses": "failed", "start": ENDED // 2, "length": 25, "order": "oldest"}, 200),
    "queues/ended/jobs  ": ({"statuses": "delayed", "start": ENDED // 2, "length": 25, "order": "oldest"}, 200),
    f"queues/big/jobs/{MILLION // 2}": ({"state": "true"}, 50),
    "queues/big/jobs/1": ({"state": "true"}, 50),
    f"queues/big/jobs/{MILLION // 2}/attempts": ({}, 50),
    f"queues/big/jobs/{MILLION // 2}/logs": ({"start": 0, "length": 100}, 50),
    f"queues/big/jobs/{MILLION // 2}/flow": ({"depth": 10, "maxChildren": 50}, 50),
    "schedulers": ({"length": 100}, 12_000),
    "workers": ({}, 50),
    "connections": ({}, 50),
    "targets": ({}, 100),
    "targets/billing": ({}, 100),
    "targets/billing/dead-letters": ({"limit": 50}, 50),
    "jobs": ({"target": "billing", "limit": 25}, 50),
    "audit": ({}, 50),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_asks_little_of_redis(toril: TorilProcess, store: redis.Redis, page: str) -> None:
    query, most = PAGES[page]
    asked = []

    def step() -> None:
        with watched(store) as one:
            get(toril, f"/{page.strip()}", **query)
        asked.append(one.commands)
        assert one.blocking == [] or len(asked) < 5, one.blocking

    unblocked(store, step)
    # Key names are read all the time, and depths for as long as someone looks: the least of several is the page's own.
    while min(asked) > most and len(asked) < 10:
        step()
    assert min(asked) <= most, asked


@pytest.mark.parametrize("query", [{"window": "1h"}, {"window": "7d"}, {"queue": "big", "window": "1h"}])
def test_statistics_do_not_wait_for_all_depths(toril: TorilProcess, store: redis.Redis, query: dict[str, str]) -> None:
    found = unblocked(store, lambda: get(toril, "/stats", **query))
    assert found["step_s"] in {60, 3600}


def test_dashboard_modules_fetch_only_the_routes_measured_here() -> None:
    """The routes of the dashboard's modules are those above, or of one row of a list."""
    modules = "".join(file.read_text() for file in sorted(STATIC.rglob("*.js")) if "vendor" not in file.parts)
    asked = re.findall(r"useFetched(?:Again)?\((?:[^`\"()]*\? )?[`\"]([^`\"]+)[`\"]", modules)
    assert len(asked) > 20
    known = {re.sub(r"(big|ended|billing|\d+)", "*", page.strip()) for page in PAGES} | {"stats"}
    one_thing = re.compile(r"(upstreams|(proxied|jobs|workers|queues/\*/schedulers)/\*(/.*)?)\Z")
    shapes = {re.sub(r"\$\{[^}]*\}", "*", re.sub(r"^\$\{base\}", "queues/*/jobs/*", one)) for one in asked}
    assert {shape for shape in shapes - known if not one_thing.match(shape)} == set()


def test_a_search_through_a_million_jobs_goes_on_and_finds(toril: TorilProcess, store: redis.Redis) -> None:
    wanted = MILLION // 4

    def search() -> tuple[list[str], int]:
        scanned, cursor = 0, ""
        while True:
            query = {"where": f"data.customer.id = {wanted}", "budget_ms": 2000, "order": "oldest", "cursor": cursor}
            page = get(toril, "/queues/big/search", **query)
            assert page["total"] == MILLION
            assert page["scanned"] > 0
            scanned += page["scanned"]
            if page["jobs"]:
                return [one["id"] for one in page["jobs"]], scanned
            cursor = page["next_cursor"]

    found, scanned = unblocked(store, search)
    assert found == [str(wanted)]
    assert wanted <= scanned <= MILLION, "it says how far it is"


def bulk(toril: TorilProcess, queue: str, **body: Any) -> dict[str, Any]:
    answer = toril.client.post(f"/queues/{queue}/bulk", json=body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


def test_a_dry_run_on_all_jobs_only_counts(toril: TorilProcess, store: redis.Redis) -> None:
    done = unblocked(store, lambda: bulk(toril, "big", action="remove", states=["waiting"], dry_run=True))
    assert (done["matched"], done["done"]) == (MILLION, MILLION)


def test_a_dry_run_with_a_filter_looks_at_all_jobs(toril: TorilProcess, store: redis.Redis) -> None:
    where = f"data.customer.id > {ENDED} and data.customer.id <= {ENDED + 500}"
    done = unblocked(store, lambda: bulk(toril, "ended", action="retry", where=where, states=["failed"], dry_run=True))
    assert (done["matched"], done["done"]) == (500, 500)


@pytest.mark.parametrize(
    ("action", "state", "more"),
    [
        ("retry", "failed", {}),
        ("remove", "completed", {}),
        ("delay", "delayed", {"delay_ms": 9_000_000}),
        ("promote", "delayed", {}),
    ],
)
def test_an_action_on_many_jobs_is_done_in_short_steps(
    toril: TorilProcess, store: redis.Redis, action: str, state: str, more: dict[str, Any]
) -> None:
    before = store.zcard(f"bull:ended:{state}")

    def step() -> dict[str, Any]:
        middle = store.zrange(f"bull:ended:{state}", ENDED // 2, ENDED // 2 + 999)
        return bulk(toril, "ended", action=action, ids=middle, **more)

    assert unblocked(store, step)["done"] == 1000
    assert store.zcard(f"bull:ended:{state}") < before or action == "delay"


def test_jobs_near_the_ends_of_a_million_that_wait_are_removed(toril: TorilProcess, store: redis.Redis) -> None:
    """Jobs in the middle of a list take Redis 5 ms each, as it has to come to them from one of the ends."""
    places = iter([place for n in range(5) for place in (50_000 + n, MILLION - 100_000 - n)])

    def step() -> list[dict[str, Any]]:
        return [
            bulk(toril, "big", action="remove", ids=[store.lindex("bull:big:wait", next(places))]) for _ in range(2)
        ]

    assert [one["done"] for one in unblocked(store, step)] == [1, 1]


def test_cleaning_draining_and_obliterating_do_not_block_redis(toril: TorilProcess, store: redis.Redis) -> None:
    def does(action: str, **body: Any) -> Any:
        answer = toril.client.post(f"/queues/gone/{action}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["removed"]

    def step() -> tuple[int, int, int]:
        fill(store, "gone", completed=20_000, wait=20_000, failed=10_000, delayed=10_000)
        return does("clean", state="completed", limit=20_000), does("drain"), does("obliterate", force=True)

    assert unblocked(store, step) == (20_000, 20_000, 20_000)
    assert list(store.scan_iter("bull:gone:*", count=100_000)) == []


def test_all_of_10_000_queues_are_listed_within_a_minute(toril: TorilProcess) -> None:
    first = [f"q{number:05}" for number in range(1000)]

    def names() -> list[str]:
        return [one["name"] for one in get(toril, "/queues", match="q*", limit=1000)["queues"]]

    eventually(lambda: names() == first, timeout_s=60, what="the first 1,000 of 10,000 queues")
