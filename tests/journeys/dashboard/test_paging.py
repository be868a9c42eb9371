"""Lists that only go forward: the page before, filters, the browser's back button and a reload."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.browser import Tab, open_page
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.gateway import job
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

DELIVERIES = 60
DEAD = 55
QUEUES = 120
ROWS = "Array.from(document.querySelectorAll('tbody a.thing'), one => one.textContent)"


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    """A toril with some pages of deliveries, dead letters and queues."""
    folder: Path = tmp_path_factory.mktemp("paging")
    with ValkeyProcess(folder / "valkey") as valkey, Endpoint(lambda _: respond(422)) as endpoint:
        targets = {"crm": {"url": endpoint.url}, "billing": {"url": endpoint.url, "retry": {"max_attempts": 1}}}
        file = configuration(folder / "toril.yaml", targets, ledger={"url": f"sqlite:///{folder}/ledger.sqlite3"})
        with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as toril:
            toril.client.post("/targets/crm/pause")
            door = Door(toril.gateway)
            for _ in range(DELIVERIES):
                door.enqueue("crm")
            dead = [door.enqueue("billing", labels={"tenant": "t1"}) for _ in range(DEAD)]
            eventually(lambda: all(door.job(one)["status"] == "dead_lettered" for one in dead), what="dead letters")
            for number in range(QUEUES):
                toril.gateway.add(f"shop-{number:03}", job())
            yield toril


def rows(tab: Tab, count: int, other: list[str]) -> list[str]:
    """Wait for a page of so many rows that are not those of another page; what they are called."""
    first = other[0] if other else ""
    tab.until(f"(rows => rows.length === {count} && rows[0] !== '{first}')({ROWS})", f"{count} other rows")
    found: list[str] = tab.run(ROWS)
    return found


@pytest.mark.parametrize(
    ("page", "counts", "kept"),
    [
        ("targets/crm?status=queued", (25, 25, 10), "status=queued"),
        ("dead-letters?target=billing&labels=tenant%3Dt1", (50, 5), "labels=tenant%3Dt1"),
        ("queues?match=shop-", (50, 50, 20), "match=shop-"),
    ],
)
def test_a_list_goes_to_the_next_page_and_back_and_keeps_its_filter(
    tab: Tab, listing: TorilProcess, page: str, counts: tuple[int, ...], kept: str
) -> None:
    open_page(tab, listing, page)
    seen = [rows(tab, counts[0], [])]
    assert tab.run("[...document.querySelectorAll('.pages button')].find(one => one.innerText === 'Previous').disabled")
    for count in counts[1:]:
        tab.click("button", "Next")
        seen.append(rows(tab, count, seen[-1]))
        assert kept in tab.address
    assert len({row for each in seen for row in each}) == sum(counts), "no row is on two pages"
    for after, before in pairwise(reversed(seen)):
        tab.click("button", "Previous")
        assert rows(tab, len(before), after) == before
        assert kept in tab.address
    assert "after=" not in tab.address


@pytest.mark.parametrize("page", ["targets/crm", "dead-letters", "queues?match=shop-"])
def test_the_back_button_and_a_reload_keep_the_place_in_a_list(tab: Tab, listing: TorilProcess, page: str) -> None:
    open_page(tab, listing, page)
    tab.until(f"{ROWS}.length >= 25", "the first page")
    first = tab.run(ROWS)
    tab.click("button", "Next")
    tab.until(f"(rows => rows.length > 0 && rows[0] !== '{first[0]}')({ROWS})", "the second page")
    second = tab.run(ROWS)
    tab.click("link", second[0])
    tab.the("heading", second[0])
    tab.run("history.back()")
    assert rows(tab, len(second), first) == second
    tab.call("Page.reload")
    assert rows(tab, len(second), first) == second
    tab.run("history.back()")
    assert rows(tab, len(first), second) == first
    tab.run("history.forward()")
    tab.the("button", "Previous")
    assert rows(tab, len(second), first) == second


def test_found_jobs_are_found_again_by_who_comes_back(tab: Tab, listing: TorilProcess) -> None:
    listing.gateway.add("searched", *(job({"n": n}) for n in range(80)))
    open_page(tab, listing, "queues/searched?where=data.n%20%3E%3D%200")
    tab.until(f"{ROWS}.length >= 25", "the first that match")
    before = int(tab.run(f"{ROWS}.length"))
    tab.click("button", "Scan further")
    tab.until(f"{ROWS}.length > {before}", "more of them")
    more = tab.run(ROWS)
    tab.click("link", more[-1])
    tab.the("heading", more[-1])
    tab.run("history.back()")
    tab.until(f"{ROWS}.includes('{more[-1]}')", "the same as before")


def test_schedulers_have_pages(tab: Tab, listing: TorilProcess) -> None:
    for number in range(53):
        body = {"every": 3_600_000, "template": {"name": "n"}}
        listing.gateway.http.put(f"/queues/planned/schedulers/plan-{number:02}", json=body)
    open_page(tab, listing, "schedulers?queue=planned")
    tab.shows("1 to 50 of 53")
    tab.click("button", "Next")
    tab.shows("51 to 53 of 53")
    tab.until("document.querySelectorAll('tbody tr').length === 3", "the last three")
    tab.click("button", "Previous")
    tab.shows("1 to 50 of 53")
