"""The jobs of a queue as work of a listener: each is put to the endpoint as to a registered worker."""

from __future__ import annotations

from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from toril import __version__
from toril.cli.gateway_address import segment
from toril.cli.listen.listener import DoneWork
from toril.cli.listen.local_worker import LocalWorker, ReceivedJob, read_job, reply
from toril.cli.listen.told_jobs import told
from toril.core.verdict import Snooze
from toril.engine.ports import OutboundPool
from toril.http_client.client import HttpClient
from toril.queues.rules.worker import WorkerSpec

_CONNECT_S = 2.0
_MOST_ANSWER_BYTES = 10 * 1024 * 1024
_PUT_OFF_MS = 5000
"""For how long a job that the filter leaves out goes back: other workers can have it then."""


class JobWork:
    """Puts the jobs of a queue to an endpoint.

    Args:
        spec: the endpoint as a registered worker.
        only: the name of the jobs that it gets; None for all.
    """

    def __init__(self, spec: WorkerSpec, only: str | None) -> None:
        self.name = spec.queue
        self.url = spec.endpoint.url
        self.path = (
            f"/ws/queues/{segment(spec.queue)}/process/{spec.concurrency}"
            f"?payload=job&maxStalledCount={spec.max_stalled_count}"
        )
        self._only = only
        self._spec = spec
        self._pool: OutboundPool | None = None
        self._worker: LocalWorker | None = None
        self._put_off = 0

    def begin(self) -> None:
        """Get ready to call the endpoint; a loop runs."""
        self._pool = HttpClient(_CONNECT_S, _MOST_ANSWER_BYTES).pool(self.url)
        self._worker = LocalWorker(self._spec, self._pool, f"toril/{__version__}")

    def do(self, number: int, payload: bytes) -> Coroutine[Any, Any, DoneWork]:
        """Read a job, and return what works on it. Raises `msgspec.DecodeError` if it is none."""
        return self._call(number, read_job(self.name, payload))

    async def _call(self, number: int, job: ReceivedJob) -> DoneWork:
        if self._only not in (None, job.name):
            self._put_off += 1
            return DoneWork(reply(number, Snooze(_PUT_OFF_MS, "")), None)
        if self._worker is None:
            raise RuntimeError("it has not begun")
        began = perf_counter()
        called = await self._worker.call(job)
        return DoneWork(reply(number, called.verdict), told(job, called, perf_counter() - began))

    def close(self) -> str | None:
        """Close the connections to the endpoint, and say how many jobs were put off."""
        if self._pool is not None:
            self._pool.close()
        if not self._put_off:
            return None
        return f"put off {self._put_off} times: jobs with another name than {self._only}"
