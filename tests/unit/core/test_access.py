import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.access import ALL, ANYBODY, Caller, RateLimit, Right, rights
from toril.core.errors import Forbidden


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["jobs:add"], {Right.JOBS_ADD}),
        (["jobs:*"], {Right.JOBS_ADD, Right.JOBS_READ, Right.JOBS_MANAGE, Right.JOBS_LEASE}),
        (["*:manage"], {right for right in Right if right.endswith(":manage")}),
        (["*"], set(Right)),
        (["*:*"], set(Right)),
        (["queues:read", "jobs:lease"], {Right.QUEUES_READ, Right.JOBS_LEASE}),
        ([], set()),
    ],
)
def test_patterns_mean_rights(patterns: list[str], meant: set[Right]) -> None:
    assert rights(patterns) == meant


@pytest.mark.parametrize(
    "pattern", ["", "jobs", "jobs:", ":read", "jobs:drop", "job:add", "JOBS:ADD", "jobs:add ", "**"]
)
def test_an_unknown_right_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no right; there are queues:read"):
        rights(["jobs:add", pattern])


@pytest.mark.parametrize(
    ("globs", "queue", "sees"),
    [
        (["orders-*"], "orders-eu", True),
        (["orders-*"], "orders", False),
        (["orders-*"], "my-orders-eu", False),
        (["orders"], "orders\n", False),
        (["a?c", "x"], "abc", True),
        (["Orders"], "orders", False),
        (["*"], "anything", True),
        ([], "anything", False),
    ],
)
def test_a_caller_sees_the_queues_of_its_globs(globs: list[str], queue: str, sees: bool) -> None:
    assert Caller("shop", ALL, globs).sees(queue) is sees
    assert Caller("shop", ALL, globs).may(Right.JOBS_ADD, queue) is sees


@given(st.sampled_from(Right), st.sets(st.sampled_from(Right)), st.booleans())
def test_a_demand_needs_the_right_and_the_queue(right: Right, allowed: set[Right], seen: bool) -> None:
    caller = Caller("shop", frozenset(allowed), ["orders"])
    queue = "orders" if seen else "invoices"
    if right in allowed and seen:
        caller.demand(right, queue)
    else:
        with pytest.raises(Forbidden) as caught:
            caller.demand(right, queue)
        assert caught.value.message == "Forbidden"


def test_a_route_without_a_particular_right_accepts_any_right() -> None:
    assert Caller("shop", frozenset({Right.JOBS_ADD}), ["orders"]).may(None, "orders")
    assert not Caller("shop", frozenset(), ["*"]).may(None, "orders")
    assert not ANYBODY.may(None)


def test_only_an_unlimited_caller_may_do_everything() -> None:
    assert Caller("root").everything
    assert not Caller("root", ALL - {Right.METRICS_READ}).everything
    assert not Caller("root", ALL, ["orders", "a*"]).everything
    assert not Caller("root", rate_limit=RateLimit(1, 1.0)).everything
