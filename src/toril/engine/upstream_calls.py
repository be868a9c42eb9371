"""Makes the requests of proxied jobs: what stands between a recorded request and its answer beside the connection.

A pool like any other to the executor. An answer with a large body goes to the blob store before the job completes, so
that Redis only ever holds its reference.
"""

from __future__ import annotations

from time import perf_counter

import structlog
from msgspec.structs import replace

from toril.core.blob import BlobRef
from toril.core.destinations.base import OutboundRequest
from toril.core.destinations.upstream import NOT_A_REQUEST, NOT_KEPT
from toril.core.errors import BlobsUnavailable, FolderUnusable
from toril.core.outcome import Answered, CutOff, Outcome
from toril.core.ports.calls import Outbound, OutboundPool
from toril.core.ports.proxy import Keeps
from toril.engine.sharing import Sharing

log = structlog.get_logger(__name__)

FOLDER = "responses"
_AWAY = "the store of large bodies (payloads.url) does not take it; the log says why"


class UpstreamCalls:
    """An `Outbound` for upstreams.

    Args:
        outbound: makes the connections.
        keeps: takes bodies that are too large to keep at hand.
        sharing: lets equal requests share an answer; None where no cache is on.
    """

    def __init__(self, outbound: Outbound, keeps: Keeps, sharing: Sharing | None) -> None:
        self._outbound = outbound
        self._keeps = keeps
        self._sharing = sharing

    def pool(self, url: str) -> OutboundPool:
        """A pool for the origin of this URL."""
        return _UpstreamPool(self._outbound.pool(url), self._keeps, self._sharing)


class _UpstreamPool:
    """Connections to one upstream."""

    def __init__(self, pool: OutboundPool, keeps: Keeps, sharing: Sharing | None) -> None:
        self._pool = pool
        self._keeps = keeps
        self._sharing = sharing

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request; the answer's body is at hand or in the blob store."""
        if request.fault:
            return CutOff(NOT_A_REQUEST, request.fault, 0.0)
        if self._sharing is None or not request.cache_key:
            outcome = await self._pool.send(request)
        else:
            outcome = await self._sharing.answer(
                request.cache_key,
                lambda timeout_s: self._pool.send(replace(request, timeout_s=timeout_s)),
                request.timeout_s,
            )
        return await self._kept(request, outcome) if isinstance(outcome, Answered) else outcome

    async def _kept(self, request: OutboundRequest, answer: Answered) -> Outcome:
        began = perf_counter()
        job_id = request.job_id.decode(errors="replace")
        try:
            kept = await self._keeps.keep(FOLDER, job_id, "response", answer.body)
        except ValueError:
            # Added by somebody else than toril, whose ids are plain.
            return CutOff(NOT_A_REQUEST, "no large answer can be kept for a job with such an id", answer.duration_s)
        except BlobsUnavailable as exc:
            log.warning("proxy.answer_not_kept", job_id=job_id, error=exc.message)
            told = exc.message if isinstance(exc, FolderUnusable) else _AWAY
            return CutOff(NOT_KEPT, told, answer.duration_s + perf_counter() - began)
        return replace(answer, body=b"", blob=kept) if isinstance(kept, BlobRef) else answer

    def close(self) -> None:
        """Let idle connections go."""
        self._pool.close()
