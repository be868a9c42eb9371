"""Makes the requests of proxied jobs: shares answers of equal requests, and offloads large ones.

To the executor it is a pool like any other. A large body goes to the blob store before the job completes, so that Redis
holds its reference only.
"""

from __future__ import annotations

from time import perf_counter

import structlog
from msgspec.structs import replace

from toril.core.blob import BlobRef
from toril.core.destination import OutboundRequest
from toril.core.errors import BlobsUnavailable, FolderUnusable
from toril.core.outcome import Answered, CutOff, Outcome
from toril.engine.ports import Outbound, OutboundPool
from toril.payloads.payload_offload import PayloadOffload
from toril.proxy.cache.singleflight import Singleflight
from toril.proxy.rules.destination import NOT_A_REQUEST, NOT_KEPT

log = structlog.get_logger(__name__)

FOLDER = "responses"
_AWAY = "the store of large bodies (payloads.url) does not take it; the log says why"


class UpstreamCalls:
    """An `Outbound` for upstreams.

    Args:
        outbound: makes the connections.
        offload: takes bodies that are too large for Redis.
        singleflight: lets equal requests share an answer; None without a cache.
    """

    def __init__(self, outbound: Outbound, offload: PayloadOffload, singleflight: Singleflight | None) -> None:
        self._outbound = outbound
        self._offload = offload
        self._singleflight = singleflight

    def pool(self, url: str) -> OutboundPool:
        """Return a pool for the origin of this URL."""
        return _UpstreamPool(self._outbound.pool(url), self._offload, self._singleflight)


class _UpstreamPool:
    """Connections to one upstream."""

    def __init__(self, pool: OutboundPool, offload: PayloadOffload, singleflight: Singleflight | None) -> None:
        self._pool = pool
        self._offload = offload
        self._singleflight = singleflight

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request; the body of the answer is in it or in the blob store."""
        if request.fault:
            return CutOff(NOT_A_REQUEST, request.fault, 0.0)
        if self._singleflight is None or not request.cache_key:
            outcome = await self._pool.send(request)
        else:
            outcome = await self._singleflight.answer(
                request.cache_key,
                lambda timeout_s: self._pool.send(replace(request, timeout_s=timeout_s)),
                request.timeout_s,
            )
        return await self._kept(request, outcome) if isinstance(outcome, Answered) else outcome

    async def _kept(self, request: OutboundRequest, answer: Answered) -> Outcome:
        began = perf_counter()
        job_id = request.job_id.decode(errors="replace")
        try:
            kept = await self._offload.keep(FOLDER, job_id, "response", answer.body)
        except ValueError:
            # The job was not added by toril, whose ids are plain.
            return CutOff(NOT_A_REQUEST, "no large answer can be kept for a job with such an id", answer.duration_s)
        except BlobsUnavailable as exc:
            log.warning("proxy.answer_not_kept", job_id=job_id, error=exc.message)
            told = exc.message if isinstance(exc, FolderUnusable) else _AWAY
            return CutOff(NOT_KEPT, told, answer.duration_s + perf_counter() - began)
        return replace(answer, body=b"", blob=kept) if isinstance(kept, BlobRef) else answer

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()
