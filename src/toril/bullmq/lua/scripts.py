"""BullMQ's Lua scripts, taken from the installed `bullmq` package, and the errors that they return below zero.

Every state change goes through these scripts, so that Node, Python and other BullMQ libraries can work on the same
queues at the same time. toril puts its rules into them: that of `waiting_lists` into scripts that make jobs wait, those
of `holds` and `hashless` into scripts that lease jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.broken_off import keeping_released, keeping_stalled
from toril.bullmq.lua.group_scripts import (
    TAKE_IN,
    adding_to_group,
    choosing_among_groups,
    freeing_when_delayed,
    freeing_when_finished,
    noticing_groups,
    releasing_to_group,
    retrying_in_group,
)
from toril.bullmq.lua.groups import FULL
from toril.bullmq.lua.hashless import passing_over_hashless
from toril.bullmq.lua.holds import HOLD, LET_GO, obeying_holds
from toril.bullmq.lua.lapsed_locks import passing_over_late_checks
from toril.bullmq.lua.long_lists import looking_at_ends, taking_from_nearer_end
from toril.bullmq.lua.pauses import noting_pauses
from toril.bullmq.lua.queue_script import QueueScript, bullmq_text
from toril.bullmq.lua.waiting_lists import LOOK_AFTER, STANDING, guarded
from toril.core.errors import JobRefused, LeaseLost, StoreRefused
from toril.redis.links import Links
from toril.redis.resp import Argument, Wire
from toril.redis.script import Call, load, run_together

# The errors that the scripts return as numbers below zero (bullmq/error_code.py).
_GONE = {-1: "the job does not exist", -2: "its lock is gone", -6: "its lock is another worker's"}
_REFUSED = {
    -3: "the job is not in the state that this needs",
    -4: "the job has pending children",
    -5: "its parent job does not exist",
    -7: "its parent job cannot be replaced",
    -9: "the job has failed children",
}


def _bullmq(
    name: str, keys: str, arguments: str, returns: str, change: Callable[[bytes], bytes] = guarded
) -> QueueScript:
    text = change(bullmq_text(name, len(keys.split())))
    return QueueScript(name, text, keys=keys, arguments=arguments, returns=returns, moves=STANDING in text)


def _leasing(text: bytes) -> bytes:
    return guarded(noticing_groups(passing_over_hashless(obeying_holds(text))))


def _leasing_in_groups(prefix: bytes, frees: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return the change of a leasing script for queues with groups; `prefix` is of their keys, in Lua."""
    return lambda text: guarded(choosing_among_groups(frees(passing_over_hashless(obeying_holds(text))), prefix))


_DONE = "0, or a code below zero"
_KEYS_OF_QUEUE = "wait active prioritized events stalled limiter delayed paused meta pc"
_NEXT_JOB = "the next job as moveToActive returns it, 0 or nothing if none was asked for, or a code below zero"


class LeaseScripts:
    """The scripts that lease and settle jobs: for a queue without groups, or with `in_groups` for one that has some."""

    def __init__(self, *, in_groups: bool) -> None:
        self.take = _bullmq(
            "moveToActive",
            f"{_KEYS_OF_QUEUE} marker",
            "prefix now_ms options",
            "hash, id, milliseconds that a limit lasts, time of the next delayed job; 0 for what does not apply. One "
            "more part where the queue has groups: 1, or 2 where there may be more to look at",
            _leasing_in_groups(b"ARGV[1]", lambda text: text) if in_groups else _leasing,
        )
        self.finish = _bullmq(
            "moveToFinished",
            f"{_KEYS_OF_QUEUE} {{state}} {{job}} metrics:{{state}} marker",
            "job_id now_ms field value state fetch_next prefix options fields?",
            _NEXT_JOB,
            _leasing_in_groups(b"ARGV[7]", freeing_when_finished) if in_groups else _leasing,
        )
        self.delay = _bullmq(
            "moveToDelayed",
            "marker active prioritized delayed {job} events meta stalled wait limiter pc",
            "prefix now_ms job_id token after_ms keep_attempt fields fetch_next options",
            _NEXT_JOB,
            _leasing_in_groups(b"ARGV[1]", freeing_when_delayed) if in_groups else _leasing,
        )
        self.retry = _bullmq(
            "retryJob",
            "active wait paused {job} meta events delayed prioritized pc marker stalled",
            "prefix now_ms push job_id token fields",
            _DONE,
            (lambda text: guarded(retrying_in_group(text))) if in_groups else guarded,
        )
        self.release = _bullmq(
            "moveJobFromActiveToWait",
            "active wait stalled paused meta limiter prioritized marker events",
            "job_id token job_key field? value?",
            "milliseconds that a limit lasts, or a code below zero",
            lambda text: guarded(releasing_to_group(keeping_released(text)) if in_groups else keeping_released(text)),
        )


class Scripts:
    """The scripts that toril calls, and the connection (or a cluster's connections) they are called on.

    `touched` has the prefixes of the queues in which they may have made a job wait. `PausedLists` empties it.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self.touched: set[bytes] = set()
        self._make_producing()
        self._make_leasing()
        self._make_reading()
        self._make_changing()

    def _make_producing(self) -> None:
        added = "the id of the job: where it is a duplicate, of the one that is there; or a code below zero"
        self.add_standard = _bullmq(
            "addStandardJob",
            "wait paused meta id completed delayed active events marker",
            "fields data options timestamp_ms",
            added,
        )
        self.add_to_group = _bullmq(
            "addStandardJob",
            "wait paused meta id completed delayed active events marker",
            "fields data options bound",
            f"{added}; {FULL} where its group is full, unless bound is `unbounded`",
            lambda text: guarded(adding_to_group(text)),
        )
        self.add_delayed = _bullmq(
            "addDelayedJob", "marker meta id delayed completed events", "fields data options timestamp_ms", added
        )
        self.add_prioritized = _bullmq(
            "addPrioritizedJob",
            "marker meta id prioritized delayed completed active events pc",
            "fields data options timestamp_ms",
            added,
        )
        self.add_parent = _bullmq(
            "addParentJob", "meta id delayed waiting-children completed events", "fields data options", added
        )
        self.add_scheduler = _bullmq(
            "addJobScheduler",
            "repeat delayed wait paused meta prioritized marker id events pc active",
            "due_ms options scheduler_id data template_options next_options now_ms prefix producer",
            "the id of its next job and that one's delay (milliseconds), or a code below zero",
        )
        self.update_scheduler = _bullmq(
            "updateJobScheduler",
            "repeat delayed wait paused meta prioritized marker id events pc {job} active",
            "due_ms scheduler_id data next_options now_ms prefix job_id",
            "the id of the next job, or nothing if it has been made",
        )
        self.remove_scheduler = _bullmq(
            "removeJobScheduler", "repeat delayed events", "scheduler_id prefix", "0, or 1 where there was none"
        )

    def _make_leasing(self) -> None:
        self.plain_leases = LeaseScripts(in_groups=False)
        self.group_leases = LeaseScripts(in_groups=True)
        self.take_in = TAKE_IN
        self.extend_locks = _bullmq(
            "extendLocks", "stalled", "prefix tokens job_ids lock_ms", "the ids whose lock another token holds, or none"
        )
        self.move_stalled = _bullmq(
            "moveStalledJobsToWait",
            "stalled wait active stalled-check meta paused marker events repeat",
            "max_stalled prefix now_ms interval_ms",
            "the ids that went back to waiting",
            lambda text: guarded(passing_over_late_checks(keeping_stalled(text))),
        )

    def _make_reading(self) -> None:
        self.get_state = _bullmq(
            "getStateV2",
            "completed failed delayed active wait paused waiting-children prioritized",
            "job_id",
            "the state in BullMQ's words; unknown where there is no such job",
            lambda text: guarded(looking_at_ends(text)),
        )
        self.get_rate_limit_ttl = _bullmq(
            "getRateLimitTtl", "limiter meta", "max", "milliseconds that nothing starts; 0 or less where jobs may"
        )
        self.get_metrics = _bullmq(
            "getMetrics", "metrics:{kind} metrics:{kind}:data", "start end", "meta data, points, how many points"
        )
        self.get_counts_per_priority = _bullmq(
            "getCountsPerPriority", "wait prioritized", "priorities*", "a count for each priority"
        )
        self.get_scheduler = _bullmq(
            "getJobScheduler", "repeat", "scheduler_id", "its hash and the time of its next job, or nothing"
        )

    def _make_changing(self) -> None:
        waiting = "wait paused meta prioritized active pc"
        self.update_progress = _bullmq("updateProgress", "{job} events meta", "job_id progress", _DONE)
        self.add_log = _bullmq("addLog", "{job} {job}:logs", "job_id line keep", "how many lines, or a code below zero")
        self.pause = _bullmq(
            "pause",
            "{source} {target} meta prioritized events delayed marker",
            "event tell now_ms",
            "how many jobs are left in BullMQ 5's paused list",
            lambda text: guarded(noting_pauses(text)),
        )
        self.obliterate = _bullmq(
            "obliterate",
            "meta prefix",
            "count force",
            "0 when done, 1 when there is more; -1 not paused, -2 active jobs",
        )
        self.move_jobs_to_wait = _bullmq(
            "moveJobsToWait",
            "prefix events {state} wait paused meta active marker",
            "count before_ms state",
            "0 when done, 1 when there is more",
        )
        self.remove_job = _bullmq(
            "removeJob",
            "{job} repeat",
            "job_id children prefix",
            "1; 0 where it is locked, -8 where a scheduler has it",
            lambda text: guarded(taking_from_nearer_end(text)),
        )
        self.reprocess_job = _bullmq(
            "reprocessJob",
            "{job} events {state} wait meta active marker prioritized pc",
            "job_id push field state reset_made reset_started",
            "1, or a code below zero",
        )
        self.promote = _bullmq(
            "promote", "delayed wait paused meta prioritized active pc events marker", "prefix job_id", _DONE
        )
        self.update_data = _bullmq("updateData", "{job}", "data", _DONE)
        self.change_priority = _bullmq("changePriority", f"{waiting} marker", "priority prefix job_id lifo", _DONE)
        self.change_delay = _bullmq(
            "changeDelay", "delayed meta marker events", "delay_ms now_ms job_id job_key", _DONE
        )
        self.remove_orphans = _bullmq(
            "removeOrphanedJobs", "prefix", "counted_parts* counted_job_parts* job_ids*", "how many it removed"
        )
        self.remove_child_dependency = _bullmq(
            "removeChildDependency",
            "prefix",
            "job_key parent_key",
            "0, 1 where it has no such parent, or a code below zero",
        )
        self.remove_unprocessed_children = _bullmq(
            "removeUnprocessedChildren",
            "{job} meta",
            "prefix job_id",
            "nothing",
            lambda text: guarded(taking_from_nearer_end(text)),
        )
        self.hold = HOLD
        self.let_go = LET_GO
        self.look_after = LOOK_AFTER

    def all(self) -> list[QueueScript]:
        """Return every script."""
        values = [*vars(self).values(), *vars(self.plain_leases).values(), *vars(self.group_leases).values()]
        return [value for value in values if isinstance(value, QueueScript)]

    async def load(self, wire: Wire) -> None:
        """Load every script on a fresh connection, in one write."""
        await load(wire, self.all())

    def run(self, key: bytes, script: QueueScript, packed: bytes) -> Coroutine[Any, Any, Any]:
        """Run a packed call on the node that has `key`, the prefix of the queue; return its reply."""
        if script.moves:
            self.touched.add(key)
        return script.run(self.links, key, packed)

    def looking_after(self, prefix: bytes) -> tuple[QueueScript, bytes]:
        """Return the call of `look_after` for the queue of this prefix."""
        return LOOK_AFTER, LOOK_AFTER.packed([prefix + name.encode() for name in LOOK_AFTER.keys])

    def call(
        self, script: QueueScript, queue: QueueKeys, *arguments: Argument, **named: str | bytes
    ) -> Coroutine[Any, Any, Any]:
        """Run a script for a queue; return its reply. `named` fills the placeholders in the names of its keys."""
        return self.run(queue.prefix, script, script.of(queue, *arguments, **named))

    async def transaction(self, key: bytes, calls: Sequence[Call]) -> list[Any]:
        """Run calls as one MULTI/EXEC, as `run_together` does."""
        if any(isinstance(script, QueueScript) and script.moves for script, _ in calls):
            self.touched.add(key)
        return await run_together(self.links, key, calls)

    async def read(self, key: bytes, *commands: bytes) -> list[Any]:
        """Send packed commands that write nothing to the node that has `key`; return their replies."""
        return await self.links.of(key).pipeline(commands)


def refused(code: int, job_id: bytes) -> JobRefused | StoreRefused:
    """Return the error that a script's number below zero stands for."""
    shown = job_id.decode(errors="replace")
    if code in _GONE:
        return LeaseLost(f"The lease of job {shown} is lost: {_GONE[code]}")
    if code in _REFUSED:
        return JobRefused(f"Job {shown} cannot be moved: {_REFUSED[code]}")
    return StoreRefused(f"BullMQ's script returned {code} for job {shown}")
