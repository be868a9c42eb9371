"""`/upstreams` and `/proxied/{id}`: the requests of the async proxy for its operators, under rights on their
upstream's queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobReader
from toril.bullmq.ports.queues import QueueControl
from toril.core.access import Right
from toril.core.blob import BlobRef, owner
from toril.core.errors import Forbidden, JobNotFound, JobRefused
from toril.core.redaction import Redaction
from toril.core.times import moment_text
from toril.payloads.byte_window import byte_window
from toril.proxy import shapes
from toril.proxy.ports import Bodies, KeptRequest, ProxiedJobs, Submission, Submissions
from toril.proxy.rules.envelope import Pairs, RecordedRequest, RecordedResponse, decode_request, decode_response
from toril.proxy.rules.proxied_job import ProxiedJob, candidates, owner_in
from toril.proxy.rules.upstream import ProxyPolicy, Upstream, queue_name
from toril.web.openapi.description import DONE, About, Parameter, Reply
from toril.web.parameters import integer_in
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, BytesResponse, StreamResponse, json_response
from toril.web.routing import Route

_STATES = {
    "queued": ("waiting", "paused", "delayed", "prioritized"),
    "running": ("active",),
    "completed": ("completed",),
    "failed": ("failed",),
}
_BYTES = b"application/octet-stream"
_AS_BYTES = ((b"x-content-type-options", b"nosniff"), (b"content-disposition", b"attachment"))
_MOST = 2**53 - 1
_BODY = About(
    (Reply(bytes, "The bytes, whatever they are", content_type=_BYTES.decode()),),
    parameters=(
        Parameter("offset", Annotated[int, Meta(ge=0)], "The first byte, counted from 0"),
        Parameter("length", Annotated[int, Meta(ge=1)], "How many bytes at most; all by default"),
    ),
    errors=(JobNotFound, JobRefused),
)
_encode = msgspec.json.Encoder().encode


class RequestServices(Struct, frozen=True):
    """The services of these routes: `jobs` reads requests, `bodies` reads large ones, `submissions` takes new ones;
    `reader` and `control` know the queues.
    """

    jobs: ProxiedJobs
    bodies: Bodies
    submissions: Submissions
    reader: JobReader
    control: QueueControl


class RequestRoutes:
    """Routes that show, replay and cancel proxied requests."""

    def __init__(self, policy: ProxyPolicy, services: RequestServices) -> None:
        self._policy = policy
        self._services = services
        self._upstreams: Mapping[str, Upstream] = {
            queue_name(policy.queue, upstream.prefix): upstream for upstream in policy.upstreams
        }

    def routes(self) -> list[Route]:
        """Return the routes."""
        read, gone = Right.JOBS_READ, (JobNotFound,)
        one, refused = "/proxied/{id}", (JobNotFound, JobRefused)
        shown = About((Reply(shapes.ProxiedRequest, "The request"),), errors=refused)
        listed = About((Reply(shapes.UpstreamList, "Those that the token may see"),))
        replayed = About((Reply(shapes.ProxyAccepted, "The new job"),), errors=refused)
        add, manage = Right.JOBS_ADD, Right.JOBS_MANAGE
        return [
            Route("/upstreams", self.upstreams, right=read, own=True, about=listed),
            Route(one, self.show, right=read, own=True, about=shown),
            Route(one, self.cancel, method="DELETE", right=manage, own=True, about=About((DONE,), errors=gone)),
            Route(f"{one}/request", self.request, right=read, own=True, about=_BODY),
            Route(f"{one}/response", self.response, right=read, own=True, about=_BODY),
            Route(f"{one}/replay", self.replay, method="POST", right=add, own=True, by_hand=True, about=replayed),
        ]

    async def upstreams(self, request: Request) -> Response:
        """List upstreams with their requests by state."""
        shown = []
        for queue, upstream in self._upstreams.items():
            if not request.caller.sees(queue):
                continue
            counts = await self._services.reader.counts(queue, [part for parts in _STATES.values() for part in parts])
            shown.append(
                shapes.ListedUpstream(
                    prefix=upstream.prefix,
                    queue=queue,
                    url=upstream.url,
                    paused=await self._services.control.paused(queue),
                    counts={state: sum(counts[part] for part in parts) for state, parts in _STATES.items()},
                )
            )
        return json_response(_encode(shapes.UpstreamList(self._policy.jobs_path, shown)))

    async def show(self, request: Request) -> Response:
        """Get a proxied request and its answer, without the bodies. Without `payloads:read`, secrets are hidden."""
        job = await self._found(request, Right.JOBS_READ)
        kept = await self._kept(job)
        recorded, answer = _request(kept), _response(job, kept)
        hide = request.hides(job.queue)
        shown = shapes.ProxiedRequest(
            id=job.id,
            queue=job.queue,
            upstream=self._upstreams[job.queue].prefix,
            status=job.status,
            attempts_made=kept.attempts_made,
            failed_reason=job.error or None,
            accepted_at=moment_text(kept.accepted_at_ms / 1000),
            started_at=_moment(kept.started_at_ms),
            finished_at=_moment(job.finished_at_ms),
            kept_until=_moment(job.finished_at_ms and job.finished_at_ms + round(self._policy.retention_s * 1000)),
            request=shapes.SentRequest(
                recorded.method, recorded.target, _headers(recorded.own_headers, hide=hide), len(recorded.body)
            ),
            response=None
            if answer is None
            else shapes.CameResponse(answer.status, _headers(answer.headers, hide=hide), _size(answer)),
        )
        return json_response(_encode(shown))

    async def request(self, request: Request) -> Response:
        """Get the body of a proxied request as it was sent. Also needs `payloads:read`."""
        job = await self._found(request, Right.JOBS_READ, body=True)
        return await self._part(request, _request(await self._kept(job)).body)

    async def response(self, request: Request) -> Response:
        """Get the body of the answer as it came. Also needs `payloads:read`."""
        job = await self._found(request, Right.JOBS_READ, body=True)
        answer = _response(job, await self._kept(job))
        if answer is None:
            raise JobRefused("There is no answer to this request", state=job.status)
        return await self._part(request, answer.body if answer.blob is None else answer.blob)

    async def replay(self, request: Request) -> Response:
        """Replay a proxied request as a new one, without a callback."""
        job = await self._found(request, Right.JOBS_ADD)
        recorded = _request(await self._kept(job))
        upstream, submissions = self._upstreams[job.queue], self._services.submissions
        job_id, _ = submissions.begin(upstream)
        by = upstream.group_by
        submission = Submission(
            upstream=upstream,
            method=recorded.method,
            target=recorded.target.encode("latin-1"),
            headers=recorded.headers,
            body=recorded.body,
            timeout_s=recorded.timeout_s,
            owner=owner_in(job.name) if self._policy.owner_only else "",
            forwarding=recorded.forwarding,
            group=None if by is None else by.group(recorded.headers),
        )
        await submissions.accept(submission, job_id)
        return json_response(_encode(shapes.ProxyAccepted(job_id)))

    async def cancel(self, request: Request) -> Response:
        """Cancel a proxied request in any state and forget it; a running attempt is aborted."""
        job = await self._found(request, Right.JOBS_MANAGE)
        if not await self._services.jobs.cancel(job):
            raise JobNotFound
        return NO_CONTENT

    async def _found(self, request: Request, right: Right, *, body: bool = False) -> ProxiedJob:
        """Return the job that the path names.

        Raises:
            Forbidden: the caller lacks a right on the queue of jobs with such an id, whether or not this one is there.
            JobNotFound: there is none.
        """
        job_id = request.path_params["id"]
        queues = candidates(job_id, list(self._upstreams))
        for queue in queues:
            request.demand(right, queue)
            if body and request.hides(queue):
                raise Forbidden("A body is shown to tokens with the right payloads:read")
        job = await self._services.jobs.find(job_id) if queues else None
        if job is None:
            raise JobNotFound
        return job

    async def _kept(self, job: ProxiedJob) -> KeptRequest:
        kept = await self._services.jobs.kept(job)
        if kept is None:
            raise JobNotFound
        return kept

    async def _part(self, request: Request, body: bytes | BlobRef) -> Response:
        query = request.query()
        offset = integer_in(query, "offset", 0, _MOST, least=0)
        length = integer_in(query, "length", _MOST, _MOST)
        if isinstance(body, bytes):
            return BytesResponse(body[offset : offset + length], content_type=_BYTES, headers=_AS_BYTES)
        parts = byte_window(self._services.bodies.stream(body), offset, length)
        return StreamResponse(await anext(parts, b""), parts, _BYTES, _AS_BYTES)


def _request(kept: KeptRequest) -> RecordedRequest:
    try:
        return decode_request(kept.request)
    except ValueError as exc:
        raise JobRefused(f"What is stored is no request: {exc}") from exc


def _response(job: ProxiedJob, kept: KeptRequest) -> RecordedResponse | None:
    if kept.response is None:
        return None
    try:
        response = decode_response(kept.response)
    except ValueError as exc:
        raise JobRefused(f"What is stored is no answer: {exc}") from exc
    if response.blob is not None and owner(response.blob.name) != job.id:
        raise JobRefused("What is stored is no answer: its body is another job's")
    return response


def _headers(headers: Pairs, *, hide: Redaction | None) -> list[tuple[str, str]]:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return list(hide.headers(pairs)) if hide else pairs


def _size(answer: RecordedResponse) -> int:
    return len(answer.body) if answer.blob is None else answer.blob.size_bytes


def _moment(at_ms: int) -> str | None:
    return moment_text(at_ms / 1000) if at_ms else None
