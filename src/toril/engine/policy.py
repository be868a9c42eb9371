"""What an operator can set about the engine."""

from __future__ import annotations

from msgspec import Struct

from toril.core.http.headers import ANSWER_HEAD_BYTES


class EnginePolicy(Struct, frozen=True, kw_only=True):
    """The times of leases and recovery, and the limits of what endpoints answer.

    `process` of `processes` says which share of each worker's concurrency this process runs.
    """

    lock_s: float = 30.0
    stalled_interval_s: float = 30.0
    poll_interval_s: float = 10.0
    grace_s: float = 30.0
    connect_timeout_s: float = 2.0
    max_response_bytes: int = 10 * 1024 * 1024
    max_response_head_bytes: int = ANSWER_HEAD_BYTES
    process: int = 0
    processes: int = 1
