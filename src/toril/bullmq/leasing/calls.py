"""Packs the calls that lease and settle jobs. Calls on the hot path are made of parts that are packed once."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.scripts import LeaseScripts
from toril.core.lease import Lease
from toril.core.made_attempt import FIELD, MadeAttempt, with_attempt
from toril.core.stored_job import Keep, StoredOptions
from toril.core.verdict import Complete, Fail, Retry

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
_traces = msgspec.json.Decoder(list[str]).decode
# BullMQ's metrics: one point per minute, for a week.
_METRIC_POINTS = 7 * 24 * 60
# moveToFinished for a completed job: head, KEYS[12], rest of the head, then its eight arguments.
_COMPLETE = (
    b"%b$%d\r\n%b%b\r\n%b"
    b"$%d\r\n%b\r\n$%d\r\n%b\r\n$11\r\nreturnvalue\r\n$%d\r\n%b\r\n$9\r\ncompleted\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n"
)


class LeaseCalls:
    """The calls of one queue with one worker's settings. The parts that never change are packed once."""

    __slots__ = (
        "_complete_after",
        "_complete_before",
        "_defaults",
        "_finish",
        "_limiter",
        "_lock_ms",
        "_prefix",
        "_queue",
        "_take",
        "_tokens",
        "_with_fields_before",
        "_worker",
        "scripts",
    )

    def __init__(
        self,
        keys: QueueKeys,
        scripts: LeaseScripts,
        limiter: dict[str, int] | None,
        lock_ms: int,
        worker: str | None,
        defaults: GroupDefaults | None,
    ) -> None:
        self.scripts = scripts
        self._queue = keys.name
        self._defaults = defaults
        self._worker = {} if worker is None else {"name": worker}
        self._limiter = limiter
        self._lock_ms = lock_ms
        self._prefix = keys.prefix
        prefix = b"$%d\r\n%b\r\n" % (len(keys.prefix), keys.prefix)
        self._take = scripts.take.head_of(keys, 3) + prefix
        # KEYS[12] is the job's own key, so the head is cut in two around it.
        head = scripts.finish.head_of(keys, 8, state="completed", job=b"\0")
        own = keys.key(b"\0")
        before, _, after = head.partition(b"$%d\r\n%b\r\n" % (len(own), own))
        self._complete_before, self._complete_after = before, after
        # The same call with a ninth argument: the number of its parts is one higher.
        count, _, rest = before.partition(b"\r\n")
        self._with_fields_before = b"*%d\r\n%b" % (int(count[1:]) + 1, rest)
        # The packed options of a take and of a settle, by token and retention: a slot keeps its token.
        self._tokens: dict[bytes, bytes] = {}
        self._finish: dict[tuple[bytes, Keep, int, tuple[bool, ...], object], bytes] = {}

    def lease_options(self, token: bytes) -> bytes:
        """Return the options of `moveToActive`, packed."""
        options = {"token": token.decode(), "lockDuration": self._lock_ms, "limiter": self._limiter}
        return _pack(options | self._worker | self._group())

    def _group(self) -> dict[str, dict[str, int]]:
        """Return what holds for groups without limits; empty for a queue that has no groups."""
        default = None if self._defaults is None else self._defaults.of(self._queue)
        return {} if default is None else {"group": default.as_packed()}

    def take(self, now_ms: bytes, token: bytes) -> bytes:
        """Return the call that leases the next job."""
        options = self.lease_options(token)
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._take, len(now_ms), now_ms, len(options), options)

    def complete_with_fields(
        self, lease: Lease, now_ms: bytes, verdict: Complete, options: bytes, fetch_next: bool
    ) -> bytes:
        """Return the call that completes a job and writes more fields of its hash."""
        call = self.complete(lease, now_ms, verdict.returnvalue, options, fetch_next, self._with_fields_before)
        fields = pack_texts(verdict.fields)
        return b"%b$%d\r\n%b\r\n" % (call, len(fields), fields)

    def complete(
        self,
        lease: Lease,
        now_ms: bytes,
        returnvalue: bytes,
        options: bytes,
        fetch_next: bool,
        before: bytes | None = None,
    ) -> bytes:
        """Return the call that completes a job."""
        job_id, prefix = lease.job_id, self._prefix
        return _COMPLETE % (
            before or self._complete_before,
            len(prefix) + len(job_id), prefix, job_id,
            self._complete_after,
            len(job_id), job_id,
            len(now_ms), now_ms,
            len(returnvalue), returnvalue,
            b"$1\r\n1\r\n" if fetch_next else b"$0\r\n\r\n",
            len(prefix), prefix,
            len(options), options,
        )  # fmt: skip

    def finish_options(self, token: bytes, kept: Keep, options: StoredOptions) -> bytes:
        """Return the options of `moveToFinished`, packed."""
        default = None if self._defaults is None else self._defaults.of(self._queue)
        key = (token, kept, options.attempts, options.on_failure, default)
        packed = self._finish.get(key)
        if packed is None:
            fail_parent, continue_parent, ignore, remove = options.on_failure
            packed = _pack(
                {
                    "token": token.decode(),
                    "keepJobs": kept.as_packed(),
                    "limiter": self._limiter,
                    "lockDuration": self._lock_ms,
                    "attempts": options.attempts,
                    "maxMetricsSize": _METRIC_POINTS,
                    "fpof": fail_parent,
                    "cpof": continue_parent,
                    "idof": ignore,
                    "rdof": remove,
                }
                | self._group()
            )
            if len(self._finish) > 512:
                self._finish.clear()
            self._finish[key] = packed
        return packed


def pack_texts(texts: Sequence[bytes]) -> bytes:
    """Return a MessagePack array of strings that need not be UTF-8: a producer may choose any bytes as a job's id."""
    packed = [struct.pack(">BI", 0xDD, len(texts))]
    packed.extend(struct.pack(">BI", 0xDB, len(text)) + text for text in texts)
    return b"".join(packed)


def failure_fields(lease: Lease, verdict: Retry | Fail) -> bytes:
    """Return the fields of the job that a failed attempt changes, packed: the reason, one more stack trace, and the
    attempt itself.
    """
    try:
        traces = _traces(lease.fields.get(b"stacktrace", b"[]"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        traces = []
    traces.append(verdict.trace)
    limit = lease.options.stack_trace_limit
    if limit is not None:
        traces = traces[-limit:] if limit else []
    fields = ["failedReason", verdict.reason, "stacktrace", _json(traces).decode()]
    if lease.failed is not None:
        fields += [FIELD, attempts_with(lease, lease.failed)]
    return _pack(fields)


def attempts_with(lease: Lease, attempt: MadeAttempt) -> str:
    """Return the field of a job with its attempts, with one more."""
    return with_attempt(lease.fields.get(FIELD.encode(), b""), attempt).decode(errors="replace")
