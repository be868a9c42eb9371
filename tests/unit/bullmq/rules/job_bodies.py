"""Bodies of `POST /queues/{q}/jobs`: right ones, and right ones with one thing in them that may be wrong."""

import json
from typing import Any

from hypothesis import strategies as st
from tests.unit.json_texts import json_texts, json_values, texts

HUGE = 10**30
_ids = st.one_of(st.sampled_from(("order-5", "ü", "a\u200db", "a:b:c", "")), texts.filter(str.isalpha))
_counts = st.one_of(st.sampled_from((0, 1, 5.0, 2**53 - 1)), st.integers(0, 2**53 - 1))
_delays = st.one_of(st.sampled_from((0, 1000, 5.0, 0.5, 2**60, HUGE)), st.floats(0, 1e15))
_flat = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(0, 1e15), texts, st.just(HUGE))
_keeps = st.one_of(_flat, st.dictionaries(st.sampled_from(("count", "age", "limit", "x")), _flat, max_size=3))

_right: dict[str, st.SearchStrategy[Any]] = {
    "attempts": _counts,
    "delay": _counts,
    "priority": st.one_of(st.sampled_from((1, 5.0, 2**21 - 1)), st.integers(1, 2**21 - 1)),
    "lifo": st.booleans(),
    "backoff": st.one_of(
        _delays,
        st.fixed_dictionaries(
            {"type": st.sampled_from(("fixed", "exponential"))},
            optional={"delay": _delays, "jitter": st.one_of(st.sampled_from((0, 1, 1.0)), st.floats(0, 1))},
        ),
        st.fixed_dictionaries({"type": texts}),
    ),
    "jobId": _ids,
    "deduplication": st.fixed_dictionaries(
        {"id": _ids.filter(bool)},
        optional={"ttl": _counts, "extend": st.booleans(), "replace": st.booleans(), "keepLastIfActive": st.booleans()},
    ),
    "removeOnComplete": _keeps,
    "removeOnFail": _keeps,
    "timestamp": _counts,
    "keepLogs": _counts,
    "stackTraceLimit": _counts,
    "sizeLimit": _counts,
    "telemetry": st.fixed_dictionaries({}, optional={"metadata": texts, "omitContext": st.booleans()}),
    "failParentOnFailure": st.booleans(),
    "removeDependencyOnFailure": st.booleans(),
}
_numbers = st.sampled_from((-1, 1.5, 2**53, 2**63, 10**400, "5", None, True, 0, [5]))
_doubtful: dict[str, st.SearchStrategy[Any]] = {
    "attempts": _numbers,
    "delay": _numbers,
    "priority": st.one_of(_numbers, st.sampled_from((2**21, 2**21 + 1))),
    "lifo": st.sampled_from((None, 1, "true")),
    "backoff": st.one_of(
        _numbers,
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(("fixed", "custom", "", 5, None, [])),
                "delay": _numbers,
                "jitter": _numbers,
            },
        ),
    ),
    "jobId": st.one_of(st.sampled_from(("5", "-5", "0", "05", "a:b", "9007199254740993", 5, None, "\n")), texts),
    "deduplication": st.fixed_dictionaries(
        {}, optional={"id": st.one_of(texts, st.none()), "ttl": _numbers, "extend": st.sampled_from((True, 1, None))}
    ),
    "removeOnComplete": st.one_of(st.lists(_flat, max_size=2), st.dictionaries(texts, json_values, max_size=2)),
    "removeOnFail": json_values,
    "keepLogs": _numbers,
    "timestamp": _numbers,
    "sizeLimit": _numbers,
    "telemetry": st.fixed_dictionaries({}, optional={"metadata": json_values, "omitContext": json_values}),
    "ignoreDependencyOnFailure": st.sampled_from((True, None, 1)),
    "repeat": st.just({"every": 5}),
}


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """Some options; one in two times one of them may be wrong."""
    names = draw(st.lists(st.sampled_from(list(_right)), max_size=3, unique=True))
    drawn = {name: draw(_right[name]) for name in names}
    if draw(st.booleans()):
        name = draw(st.sampled_from(list(_doubtful)))
        drawn[name] = draw(st.one_of(_doubtful[name], json_values))
    return drawn


@st.composite
def jobs(draw: st.DrawFn) -> str:
    """The text of one job; one in five times something beside its options may be wrong."""
    parts = {
        "name": json.dumps(draw(st.one_of(st.just("charge"), texts.filter(str.isalpha)))),
        "data": draw(json_texts),
    }
    if draw(st.integers(0, 3)):
        parts["opts"] = json.dumps(draw(options()))
    if draw(st.integers(0, 4)) == 4:
        key = draw(st.sampled_from(("name", "data", "opts", "extra")))
        if draw(st.booleans()):
            parts[key] = json.dumps(draw(json_values))
        else:
            parts.pop(key, None)
    keys = draw(st.permutations(list(parts)))
    return "{" + ", ".join(f"{json.dumps(key)}: {parts[key]}" for key in keys) + "}"


bodies = st.lists(jobs(), min_size=1, max_size=2).map(lambda items: f"[{', '.join(items)}]".encode())
