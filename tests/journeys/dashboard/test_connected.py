"""Workers on sockets on the dashboard: who they are and which jobs they have, while they are there."""

import json
from collections.abc import Callable

from tests.support.browser import Tab, open_page
from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess

NewQueue = Callable[[], str]

ROW = """Array.from(document.querySelectorAll('[aria-label="Connected"] tbody tr'))
    .find(row => row.querySelector('th').textContent === QUEUE)"""
CELLS = f"Array.from(({ROW})?.cells || [], cell => cell.textContent.trim().replaceAll('\\u00a0', ' '))"


def row(tab: Tab, queue: str) -> list[str]:
    """What the row of a queue says, cell by cell; nothing where there is none."""
    found: list[str] = tab.run(CELLS.replace("QUEUE", json.dumps(queue)))
    return found


def until_row(tab: Tab, queue: str, condition: str, what: str) -> None:
    """Wait until the cells of a queue's row (`cells`) are as a JavaScript condition wants them."""
    tab.until(f"((cells) => {condition})({CELLS.replace('QUEUE', json.dumps(queue))})", what)


def test_a_worker_on_a_socket_comes_and_goes_with_its_jobs_on_the_workers_page(
    tab: Tab, toril: TorilProcess, new_queue: NewQueue
) -> None:
    queue = new_queue()
    ids = [one["id"] for one in toril.gateway.add(queue, *(job({"n": n}) for n in range(5)))]
    open_page(tab, toril, "workers")
    tab.the("heading", "Connected")
    assert row(tab, queue) == []
    with socket_to(toril.url, f"/ws/queues/{queue}/process/2", TOKEN) as worker:
        messages = worker.jobs(2)
        until_row(tab, queue, "cells[4] === '2'", "the worker with two jobs")
        found = row(tab, queue)
        assert found[:2] == [queue, "socket"]
        assert found[2].endswith(", 127.0.0.1"), found
        assert found[3:6] == ["2", "2", f"{ids[0]} {ids[1]}"]
        assert found[6].endswith(" s"), found
        for message in messages:
            worker.finish(message)
        worker.jobs(2)
        until_row(tab, queue, f"cells[5] === '{ids[2]} {ids[3]}'", "its next jobs")
        tab.click("link", ids[2])
        tab.the("heading", ids[2])
        tab.shows("active")
        tab.run("history.back()")
        until_row(tab, queue, "cells.length === 7", "the row again")
    until_row(tab, queue, "cells.length === 0", "the worker to be gone")


def test_a_worker_on_a_socket_is_counted_on_its_queues_page_while_it_is_there(
    tab: Tab, toril: TorilProcess, new_queue: NewQueue
) -> None:
    queue = new_queue()
    toril.gateway.add(queue, job(), job())
    open_page(tab, toril, f"queues/{queue}")
    tab.shows("No worker")
    with socket_to(toril.url, f"/ws/queues/{queue}/process/3", TOKEN) as worker:
        worker.jobs(2)
        tab.shows("2 of 3 slots, since")
        tab.shows("127.0.0.1")
        tab.shows("1 worker here.")
        tab.hides("No worker")
    tab.shows("0 workers here.")
    tab.shows("No worker")
