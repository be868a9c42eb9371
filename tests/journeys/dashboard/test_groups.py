"""The page of a queue's groups: what waits, runs and holds them, their limits, and what a person does with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.support.browser import Browser, Tab, open_page
from tests.support.gateway import job
from tests.support.tokens import token, write
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

BUTTONS = "Array.from(document.querySelectorAll('main button'), one => one.textContent.trim())"


@pytest.fixture(scope="module")
def toril(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    """A toril with a token that may only read, and one that may not see queues."""
    folder: Path = tmp_path_factory.mktemp("groups")
    file = write(folder / "toril.yaml", token("reader", ["*:read"]), token("stranger", ["workers:read"]))
    with (
        ValkeyProcess(folder / "valkey") as valkey,
        TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as running,
    ):
        yield running


@pytest.fixture
def queue() -> str:
    """The name of a new queue."""
    return f"mails-{uuid4().hex[:8]}"


def add(toril: TorilProcess, queue: str, group: str, count: int = 1) -> None:
    toril.gateway.add(queue, *(job({"n": n}, group={"id": group}) for n in range(count)))


def state(toril: TorilProcess, queue: str, group: str) -> dict[str, Any]:
    found: dict[str, Any] = toril.client.get(f"/queues/{queue}/groups/{quote(group, safe='')}").json()
    return found


def row(tab: Tab, group: str, text: str) -> None:
    """Wait until the row of a group shows this text."""
    tab.until(
        f"[...document.querySelectorAll('tbody tr')].some(one => one.querySelector('th').innerText.trim() === {group!r}"
        f" && one.innerText.replaceAll('\\u00a0', ' ').includes({text!r}))",
        f"{text} at {group}",
    )


def test_groups_are_found_from_the_page_of_their_queue_and_by_the_palette(
    tab: Tab, toril: TorilProcess, queue: str
) -> None:
    add(toril, queue, "acme")
    open_page(tab, toril, f"queues/{queue}")
    tab.click("link", f"Show the groups of {queue}")
    tab.the("heading", f"Groups of {queue}")
    row(tab, "acme", "running")
    open_page(tab, toril, "workers")
    tab.the("heading", "Workers")
    tab.press("k", ctrl=True)
    tab.type("combobox", "Search", f"{queue} gr")
    tab.shows(f"{queue} groups")
    tab.press("Enter")
    tab.the("heading", f"Groups of {queue}")
    tab.forget("jobs/gr?")  # it may be the id of a job, too


def test_limits_are_set_before_the_first_job_changed_and_taken_away(tab: Tab, toril: TorilProcess, queue: str) -> None:
    open_page(tab, toril, f"queues/{queue}/groups")
    tab.shows(f"No group of {queue} has jobs or limits")
    tab.click("button", "Set limits")
    for field, text in (
        ("Group", "acme"), ("Concurrency", "2"), ("Starts", "10"), ("in so many seconds", "0.5"),
        ("Weight, 1 to 1,000", "3"), ("Waiting at most", "100"),
    ):  # fmt: skip
        tab.type("textbox", field, text)
    tab.click("button", "Confirm")
    row(tab, "acme", "10 per 500 ms")
    row(tab, "acme", "0 of 100")
    limits = {"concurrency": 2, "limit": {"max": 10, "duration": 500}, "weight": 3, "max_waiting": 100}
    assert state(toril, queue, "acme")["limits"] == limits
    tab.click("button", "Edit acme")
    tab.type("textbox", "Weight, 1 to 1,000", "5000")
    tab.click("button", "Confirm")
    tab.shows("Refused")
    tab.type("textbox", "Weight, 1 to 1,000", "")
    tab.type("textbox", "Concurrency", "4")
    tab.click("button", "Confirm")
    row(tab, "acme", "0 of 4")
    assert state(toril, queue, "acme")["limits"] == limits | {"concurrency": 4, "weight": None}
    tab.click("button", "Edit acme")
    for field in ("Concurrency", "Starts", "Waiting at most"):
        tab.type("textbox", field, "")
    tab.click("button", "Confirm")
    tab.shows(f"No group of {queue} has jobs or limits")
    tab.forget("400")  # the weight that was refused


def test_a_group_is_paused_keeps_its_pause_is_resumed_and_drained(tab: Tab, toril: TorilProcess, queue: str) -> None:
    add(toril, queue, "acme", 3)
    open_page(tab, toril, f"queues/{queue}/groups")
    tab.click("button", "Pause acme")
    row(tab, "acme", "paused")
    assert state(toril, queue, "acme")["paused"] is True
    tab.click("button", "Edit acme")
    tab.click("button", "Confirm")
    tab.shows("Limits of acme changed")
    assert state(toril, queue, "acme")["paused"] is True
    tab.click("button", "Resume acme")
    row(tab, "acme", "running")
    assert state(toril, queue, "acme")["paused"] is False
    tab.click("button", "Drain acme")
    tab.shows("Removes 3 waiting jobs of this group.")
    tab.click("button", "Confirm")
    tab.shows("3 jobs removed")
    assert state(toril, queue, "acme")["waiting"] == 0


def test_what_holds_a_group_is_shown_as_it_happens(tab: Tab, toril: TorilProcess, queue: str) -> None:
    toril.client.put(f"/queues/{queue}/groups/full", json={"concurrency": 1})
    toril.client.put(f"/queues/{queue}/groups/slow", json={"limit": {"max": 1, "duration": 3_600_000}})
    open_page(tab, toril, f"queues/{queue}/groups")
    row(tab, "full", "0 of 1")
    add(toril, queue, "full", 2)
    add(toril, queue, "slow", 2)
    leased = toril.client.post(f"/queues/{queue}/lease", json={"count": 4, "lock_ms": 60_000}).json()["jobs"]
    assert len(leased) == 2
    row(tab, "full", "all slots in use")
    row(tab, "full", "1 of 1")
    row(tab, "slow", "next start in 5")


def test_groups_are_found_by_a_part_of_their_id_and_have_pages(tab: Tab, toril: TorilProcess, queue: str) -> None:
    toril.gateway.add(queue, *(job(group={"id": f"tenant-{n:03}"}) for n in range(60)))
    open_page(tab, toril, f"queues/{queue}/groups")
    tab.shows("1 to 50, by id")
    tab.click("button", "Next")
    tab.shows("51 to 60, by id")
    tab.click("button", "Previous")
    row(tab, "tenant-000", "running")
    tab.type("textbox", "Search", "-05")
    tab.press("Enter")
    tab.until("document.querySelectorAll('tbody tr').length === 10", "those that match")
    tab.type("textbox", "Search", "nothing")
    tab.press("Enter")
    tab.shows("No group with jobs or limits is called nothing")
    tab.click("button", "Clear search")
    row(tab, "tenant-000", "running")


def test_an_id_of_any_characters_is_shown_and_acted_on(chromium: Browser, toril: TorilProcess, queue: str) -> None:
    """On a phone."""
    group = "<b>t/1</b>?#%2F &"
    add(toril, queue, group)
    tab = chromium.tab(width=390, height=844)
    open_page(tab, toril, f"queues/{queue}/groups")
    tab.click("button", f"Pause {group}")
    row(tab, group, "paused")
    eventually(lambda: state(toril, queue, group)["paused"], what="a paused group")
    assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert tab.complaints == []


def test_who_may_only_read_finds_no_button_that_acts(tab: Tab, toril: TorilProcess, queue: str) -> None:
    empty = f"{queue}-empty"
    add(toril, queue, "acme")
    open_page(tab, toril, f"queues/{queue}/groups", token="reader-secret")
    row(tab, "acme", "running")
    assert not {"Set limits", "Pause", "Resume", "Edit", "Drain"} & set(tab.run(BUTTONS))
    open_page(tab, toril, f"queues/{empty}/groups", token="reader-secret")
    tab.shows(f"No group of {empty} has jobs or limits")
    assert "Set limits" not in tab.run(BUTTONS)


def test_who_may_not_see_queues_is_told_the_right_that_is_missing(tab: Tab, toril: TorilProcess, queue: str) -> None:
    open_page(tab, toril, f"queues/{queue}/groups", token="stranger-secret")
    tab.shows("It needs queues:read")
    tab.forget("403")
