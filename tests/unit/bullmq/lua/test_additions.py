"""What toril adds to BullMQ's scripts stands in the scripts of the `bullmq` package that is installed."""

import re
from collections.abc import Callable

import pytest

from toril.bullmq.lua.broken_off import keeping_released, keeping_stalled
from toril.bullmq.lua.long_lists import looking_at_ends, taking_from_nearer_end
from toril.bullmq.lua.pauses import noting_pauses
from toril.bullmq.lua.queue_script import bullmq_text


@pytest.mark.parametrize(
    ("name", "keys", "change", "added"),
    [
        ("moveStalledJobsToWait", 9, keeping_stalled, [b"keep_stalled(jobKey, timestamp, "]),
        ("moveJobFromActiveToWait", 9, keeping_released, [b'rcall("HSET", jobKey, ARGV[4], ARGV[5])']),
        ("getStateV2", 8, looking_at_ends, [b"if is_in(KEYS[5], ARGV[1])", b"if is_in(KEYS[6], ARGV[1])"]),
        ("removeJob", 2, taking_from_nearer_end, [b'take_from(prefix .. "wait", prefix, jobId)']),
        ("removeUnprocessedChildren", 2, taking_from_nearer_end, [b'take_from(prefix .. "paused", prefix, jobId)']),
        ("pause", 7, noting_pauses, [b'"toril:pausedAt", ARGV[3])', b'"paused", "toril:pausedAt")']),
    ],
)
def test_an_addition_leaves_the_rest_of_the_script_unchanged(
    name: str, keys: int, change: Callable[[bytes], bytes], added: list[bytes]
) -> None:
    text = bullmq_text(name, keys)
    changed = change(text)
    assert all(changed.count(one) == 1 for one in added)
    # Without the additions it is BullMQ's script, line by line.
    left = iter([line.strip() for line in changed.splitlines()])
    replaced = re.compile(rb'HDEL", KEYS\[3\], "paused"\)|LPOS", KEYS\[[56]\]|LREM", prefix \.\. "(?:wait|paused)"')
    assert [line for line in text.splitlines() if not replaced.search(line) and line.strip() not in left] == []


@pytest.mark.parametrize(
    "change", [keeping_stalled, keeping_released, noting_pauses, looking_at_ends, taking_from_nearer_end]
)
def test_a_script_in_which_the_place_is_missing_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match="as expected"):
        change(b"return 0")
