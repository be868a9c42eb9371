"""Every public method of Node BullMQ: the table of what toril has is whole, and each row holds in both majors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.compat.nodejs import LiveNode
from tests.compat.parity import Both, Check, declared, documented
from tests.compat.parity_job import jobs
from tests.compat.parity_others import events, flows, schedulers, what_a_failed_child_does_to_its_parent
from tests.compat.parity_queue import queue as queues
from tests.support.gateway import Gateway

pytestmark = pytest.mark.node

CHECKS: dict[tuple[str, ...], Check] = {
    (checks.name, *methods): check
    for checks in (queues, jobs, flows, schedulers, events)
    for methods, check in checks.by_methods.items()
}


def test_the_table_has_every_method_and_no_other(node_modules: Path) -> None:
    methods = declared(node_modules, "5") | declared(node_modules, "6")
    assert len(methods) > 140
    assert methods == set(documented())


def test_every_method_that_toril_has_is_checked() -> None:
    checked = [(name, method) for name, *methods in CHECKS for method in methods]
    assert sorted(checked) == sorted(method for method, offered in documented().items() if offered)


@pytest.mark.parametrize("check", CHECKS.values(), ids=[f"{name} {' '.join(methods)}" for name, *methods in CHECKS])
def test_each_row_of_the_parity_table_is_true(
    live: LiveNode, gateway: Gateway, store: redis.Redis, new_queue: Callable[[], str], check: Check
) -> None:
    check(Both(live, gateway, store, new_queue))


def test_a_failed_child_does_to_its_parent_what_its_options_say(
    live: LiveNode, gateway: Gateway, store: redis.Redis, new_queue: Callable[[], str]
) -> None:
    what_a_failed_child_does_to_its_parent(Both(live, gateway, store, new_queue))
