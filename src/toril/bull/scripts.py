"""BullMQ's Lua scripts, taken from the installed `bullmq` package, called by their SHA.

Owns loading and the packing of calls. Every state change goes through these scripts, so that Node, Python and
other BullMQ libraries work on the same queues at the same time. The number in a file's name is how many keys
the script takes; what they are, and what it returns, stands at the head of each file. Rules of ours are put into
them: `toril.bull.waiting_lists`' into all that make jobs wait, those of `holds` and `hashless` into what leases jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from toril.bull.hashless import passing_over_hashless
from toril.bull.holds import HOLD, LET_GO, obeying_holds
from toril.bull.keys import QueueKeys
from toril.bull.links import Links
from toril.bull.waiting_lists import LOOK_AFTER, STANDING, guarded
from toril.bull.wire import ReplyError, Wire, pack
from toril.core.errors import JobRefused, LeaseLost, StoreRefused

# What the scripts return below zero (bullmq/error_code.py).
_GONE = {-1: "the job does not exist", -2: "its lock is gone", -6: "its lock is another worker's"}
_REFUSED = {
    -3: "the job is not in the state that this needs",
    -4: "the job has pending children",
    -5: "its parent job does not exist",
    -7: "its parent job cannot be replaced",
    -9: "the job has failed children",
}


# How a call of a script begins, behind the number of its parts.
_EVALSHA = b"$7\r\nEVALSHA\r\n$40\r\n"


class Script:
    """One of BullMQ's scripts, or (with its text) one of ours, for what BullMQ has none.

    `moves` is true of a script that may make jobs wait.
    """

    __slots__ = ("keys", "moves", "name", "sha", "text")

    def __init__(self, file: str, text: bytes | None = None) -> None:
        self.name, _, keys = file.removesuffix(".lua").partition("-")
        self.keys = int(keys)
        self.text = guarded(_text_of(file)) if text is None else text
        self.moves = STANDING in self.text and text is not LOOK_AFTER
        self.sha = hashlib.sha1(self.text).hexdigest().encode()  # noqa: S324 - how Redis names scripts

    def head(self, keys: Sequence[bytes], arguments: int) -> bytes:
        """The part of a call that stays the same: everything before the arguments, as RESP.

        Built once per queue and script; a call then formats its arguments behind it, which costs a quarter of
        packing all of it again.
        """
        if len(keys) != self.keys:
            raise ValueError(f"{self.name} takes {self.keys} keys, got {len(keys)}")
        packed = pack("EVALSHA", self.sha, self.keys, *keys)
        _, _, rest = packed.partition(b"\r\n")
        return b"*%d\r\n%b" % (3 + len(keys) + arguments, rest)

    def packed(self, keys: Sequence[bytes], *arguments: str | bytes | int) -> bytes:
        """A whole call, for where it need not be fast."""
        return self.head(keys, len(arguments)) + pack(*arguments).partition(b"\r\n")[2]


def _text_of(file: str) -> bytes:
    return files("bullmq").joinpath("commands", file).read_bytes()


def _leasing(file: str) -> Script:
    """A script of BullMQ's that leases jobs."""
    return Script(file, guarded(passing_over_hashless(obeying_holds(_text_of(file)))))


class Scripts:
    """The scripts that toril calls, and the connection (or a cluster's connections) they are called on.

    `touched` has the prefixes of the queues in which they may have made a job wait. `PausedLists` empties it.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self.touched: set[bytes] = set()
        self.add_standard = Script("addStandardJob-9.lua")
        self.add_delayed = Script("addDelayedJob-6.lua")
        self.add_prioritized = Script("addPrioritizedJob-9.lua")
        self.move_to_active = _leasing("moveToActive-11.lua")
        self.move_to_finished = _leasing("moveToFinished-14.lua")
        self.move_to_delayed = _leasing("moveToDelayed-11.lua")
        self.retry_job = Script("retryJob-11.lua")
        self.release_job = Script("moveJobFromActiveToWait-9.lua")
        self.extend_locks = Script("extendLocks-1.lua")
        self.move_stalled = Script("moveStalledJobsToWait-9.lua")
        self.update_progress = Script("updateProgress-3.lua")
        self.add_log = Script("addLog-2.lua")
        self.get_jobs = Script("getJobs-1.lua")
        self.get_state = Script("getStateV2-8.lua")
        self.pause = Script("pause-7.lua")
        self.obliterate = Script("obliterate-2.lua")
        self.move_jobs_to_wait = Script("moveJobsToWait-8.lua")
        self.hold = Script("hold-2.lua", HOLD)
        self.let_go = Script("letGo-2.lua", LET_GO)
        self.get_rate_limit_ttl = Script("getRateLimitTtl-2.lua")
        self.get_metrics = Script("getMetrics-2.lua")
        self.remove_job = Script("removeJob-2.lua")
        self.reprocess_job = Script("reprocessJob-9.lua")
        self.promote = Script("promote-9.lua")
        self.update_data = Script("updateData-1.lua")
        self.change_priority = Script("changePriority-7.lua")
        self.change_delay = Script("changeDelay-4.lua")
        self.get_counts_per_priority = Script("getCountsPerPriority-2.lua")
        self.remove_orphans = Script("removeOrphanedJobs-1.lua")
        self.remove_child_dependency = Script("removeChildDependency-1.lua")
        self.remove_unprocessed_children = Script("removeUnprocessedChildren-2.lua")
        self.add_parent = Script("addParentJob-6.lua")
        self.update_scheduler = Script("updateJobScheduler-12.lua")
        self.add_scheduler = Script("addJobScheduler-11.lua")
        self.remove_scheduler = Script("removeJobScheduler-3.lua")
        self.get_scheduler = Script("getJobScheduler-1.lua")
        self.look_after = Script("lookAfter-4.lua", LOOK_AFTER)

    def all(self) -> list[Script]:
        """Every script."""
        return [value for value in vars(self).values() if isinstance(value, Script)]

    async def load(self, wire: Wire) -> None:
        """Load every script on a fresh connection, in one write."""
        await wire.pipeline([pack("SCRIPT", "LOAD", script.text) for script in self.all()])

    async def run(self, key: bytes, script: Script, packed: bytes) -> Any:
        """Call a script that was packed with its `head`, on the node that has `key`.

        It is called again where Redis said that nothing ran, since the script is forgotten (a failover, SCRIPT FLUSH).
        """
        if script.moves:
            self.touched.add(key)
        link = self.links.of(key)
        try:
            return await link.run_script(packed)
        except ReplyError as exc:
            if not exc.message.startswith("NOSCRIPT"):
                raise
        await link.call("SCRIPT", "LOAD", script.text)
        return await link.run_script(packed)

    def looking_after(self, prefix: bytes) -> tuple[Script, bytes]:
        """The call of `look_after` for the queue of this prefix."""
        names = ("wait", "meta", "active", "marker")
        return self.look_after, self.look_after.packed([prefix + name.encode() for name in names])

    async def call(self, script: Script, queue: QueueKeys, keys: Sequence[bytes], *arguments: str | bytes | int) -> Any:
        """Call a script of a queue, for where it need not be fast."""
        return await self.run(queue.prefix, script, script.packed(keys, *arguments))

    async def read(self, key: bytes, *commands: bytes) -> list[Any]:
        """Send packed commands that write nothing to the node that has `key`; their replies."""
        return await self.links.of(key).pipeline(commands)

    async def transaction(self, key: bytes, calls: Sequence[tuple[Script, bytes]]) -> list[Any]:
        """Call several scripts as one MULTI/EXEC; error replies come back in place, as exceptions.

        Redis may have forgotten scripts. Where all calls are of one, none of them has done anything then, and they are
        made again. Of several, some would run and others not, so each script is sent whole with its first call, and
        Redis knows it for the others. A call may be another command than the script it is listed with.
        """
        scripts = {script for script, _ in calls}
        if any(script.moves for script in scripts):
            self.touched.add(key)
        if len(scripts) > 1:
            return await self.links.of(key).transaction(_taught(calls))
        replies = await self.links.of(key).transaction([packed for _, packed in calls])
        if not any(isinstance(reply, ReplyError) and reply.message.startswith("NOSCRIPT") for reply in replies):
            return replies
        for script in scripts:
            await self.links.of(key).call("SCRIPT", "LOAD", script.text)
        return await self.links.of(key).transaction([packed for _, packed in calls])


def _is_call(packed: bytes) -> bool:
    return packed.startswith(_EVALSHA, packed.index(b"\n") + 1)


def _taught(calls: Sequence[tuple[Script, bytes]]) -> list[bytes]:
    """The calls, with the first one of each script as EVAL of its text."""
    commands: list[bytes] = []
    sent: set[Script] = set()
    for script, packed in calls:
        if script in sent or not _is_call(packed):
            commands.append(packed)
            continue
        sent.add(script)
        count, _, rest = packed.partition(b"\r\n")
        arguments = rest[len(_EVALSHA) + len(script.sha) + 2 :]
        commands.append(b"%b\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n%b" % (count, len(script.text), script.text, arguments))
    return commands


def refused(code: int, job_id: bytes) -> JobRefused | StoreRefused:
    """A script's negative return code as an error."""
    shown = job_id.decode(errors="replace")
    if code in _GONE:
        return LeaseLost(f"The lease of job {shown} is lost: {_GONE[code]}")
    if code in _REFUSED:
        return JobRefused(f"Job {shown} cannot be moved: {_REFUSED[code]}")
    return StoreRefused(f"BullMQ's script returned {code} for job {shown}")
