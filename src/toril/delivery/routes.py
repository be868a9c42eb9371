"""`/enqueue` and `/jobs`: deliveries accepted, followed, listed, cancelled (wire/delivery.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace
from starlette.responses import Response

from toril.core.access import Caller, Right
from toril.core.blob import owner
from toril.core.errors import (
    BlobLost,
    EnvelopeTooLarge,
    Forbidden,
    IdempotencyMismatch,
    InvalidEnvelope,
    InvalidRequest,
    JobNotFound,
    JobRefused,
    NoResponse,
    PayloadTooLarge,
    TorilError,
    UnknownTarget,
)
from toril.core.http.headers import HOP_BY_HOP, Header, is_header_name, is_header_value
from toril.delivery import delivery_shapes as shapes
from toril.delivery import delivery_wire as wire
from toril.delivery.deliveries import Deliveries, Enqueued
from toril.delivery.ports import LedgerReader
from toril.delivery.rules.delivery import Content, Delivery, Envelope, Inline, Stored, TargetResponse
from toril.delivery.rules.enqueue import BatchItem, EnqueueRequest, Posted, check_key, read_batch, read_envelope
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.target import TargetSpec
from toril.delivery.transition_waiter import TransitionWaiter
from toril.payloads.byte_window import byte_window
from toril.payloads.payload_offload import PayloadOffload
from toril.telemetry.tracing.requests import sent_trace
from toril.web.idempotency_key import refuse_key, single_key
from toril.web.mounting import url_path
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.parameters import integer, integer_in, seconds
from toril.web.problems import problem
from toril.web.request import Request
from toril.web.responses import BytesResponse, StreamResponse, json_response
from toril.web.routing import Handler, Route
from toril.web.shapes import Problem

MAX_WAIT_S = 60.0
_MOST_SEQ = 999_999_999
_MOST = 2**53 - 1
_BYTES = b"application/octet-stream"
_AS_BYTES = ((b"x-content-type-options", b"nosniff"), (b"content-disposition", b"attachment"))
_REPLAYED: tuple[Header, ...] = ((b"idempotent-replayed", b"true"),)
# What must not take effect where the answer is replayed: it speaks for another origin, or another connection.
_NOT_REPLAYED = frozenset(
    {
        *(name.decode() for name in HOP_BY_HOP), "content-length", "content-type", "set-cookie", "set-cookie2",
        "alt-svc", "clear-site-data", "strict-transport-security", "content-security-policy", "x-content-type-options",
        "date",
    }
)  # fmt: skip


class DeliveryRoutes:
    """Routes that accept, show and cancel deliveries.

    Args:
        deliveries: accepts and cancels.
        reader: the ledger, to read.
        following: waits.
        spill: gives large bodies back.
        targets: those that are configured now, by name.
        max_body_bytes: of a decoded body, as it is now.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        reader: LedgerReader,
        following: TransitionWaiter,
        spill: PayloadOffload,
        *,
        targets: Mapping[str, TargetSpec],
        max_body_bytes: Callable[[], int],
    ) -> None:
        self._deliveries = deliveries
        self._reader = reader
        self._following = following
        self._spill = spill
        self._targets = targets
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        add, read, manage = Right.DELIVERIES_ADD, Right.DELIVERIES_READ, Right.DELIVERIES_MANAGE

        def route(method: str, template: str, handler: Handler, right: Right, about: About) -> Route:
            door = "delivery" if template.startswith("/enqueue") else ""
            return Route(template, handler, method=method, right=right, own=True, door=door, about=about)

        brief = shapes.DeliveryBrief
        filters = (Parameter("target", str, "Only of this target"), Parameter("status", Status, "Only those"))
        accepted = (
            Reply(brief, "Accepted", 202),
            Reply(brief, "Accepted before, under the same key: as it stands"),
        )
        refusals = (InvalidEnvelope, UnknownTarget, EnvelopeTooLarge)
        results = Reply(list[shapes.BatchResult], "The result for each envelope, in order", 207)
        one = Reply(shapes.DeliveryJob, "The delivery")
        replayed = Reply(bytes, "The answer, with its own status, headers and body", content_type="*/*")
        content = Reply(bytes, "The bytes, whatever they are", content_type=_BYTES.decode())
        return [
            route(
                "POST", "/enqueue", self.enqueue, add,
                About(accepted, body=Posted, parameters=shapes.KEY, errors=(*refusals, IdempotencyMismatch)),
            ),
            route(
                "POST", "/enqueue/batch", self.enqueue_batch, add,
                About((results,), body=list[BatchItem], errors=(InvalidEnvelope, InvalidRequest, EnvelopeTooLarge)),
            ),
            route(
                "GET", "/jobs", self.page, read,
                About((Reply(shapes.DeliveryPage, "A page"),), parameters=(*filters, *shapes.PAGE)),
            ),
            route(
                "GET", "/jobs/{job}", self.one, read, About((one,), parameters=shapes.WAIT, errors=(JobNotFound,))
            ),
            route(
                "GET", "/jobs/{job}/response", self.response, read,
                About((replayed,), errors=(JobNotFound, NoResponse, BlobLost)),
            ),
            route(
                "GET", "/jobs/{job}/response/body", self.response_body, read,
                About((content,), parameters=shapes.BYTES, errors=(JobNotFound, NoResponse, BlobLost)),
            ),
            route(
                "GET", "/jobs/{job}/envelope", self.envelope, read,
                About((Reply(shapes.DeliveryEnvelope, "The envelope"),), errors=(JobNotFound,)),
            ),
            route(
                "GET", "/jobs/{job}/envelope/body", self.envelope_body, read,
                About((content,), parameters=shapes.BYTES, errors=(JobNotFound, BlobLost)),
            ),
            route(
                "DELETE", "/jobs/{job}", self.cancel, manage,
                About((Reply(brief, "Cancelled"),), errors=(JobNotFound, JobRefused)),
            ),
        ]  # fmt: skip

    async def enqueue(self, request: Request) -> Response:
        """Accept an envelope for delivery."""
        try:
            given = single_key(request.scope["headers"])
        except InvalidRequest as exc:
            raise InvalidEnvelope(exc.message, field=exc.field) from exc
        key = None if given is None else given.decode("latin-1")
        if key is not None:
            check_key(key, "idempotency-key")
        text = await self._body(request)
        submission = read_envelope(text, key=key, max_body_bytes=self._max_body_bytes())
        trace = _trace(request, submission.target)
        if trace:
            submission = replace(submission, trace=trace)
        request.demand(Right.DELIVERIES_ADD, submission.target)
        done = await self._deliveries.enqueue(submission)
        location = url_path(request.scope, b"/jobs/" + done.delivery.job_id.encode())
        headers = ((b"location", location), *(_REPLAYED if done.replayed else ()))
        return BytesResponse(wire.encode(wire.brief(done.delivery)), _status(done), headers=headers)

    async def enqueue_batch(self, request: Request) -> Response:
        """Accept several envelopes, each independently of the others."""
        refuse_key(request.scope["headers"], "each envelope of a batch carries its own idempotency_key")
        texts = read_batch(await self._body(request))
        trace = _trace(request, "deliveries")
        read = [self._read(request.caller, text, trace) for text in texts]
        good = [one for one in read if isinstance(one, EnqueueRequest)]
        done = iter(await self._deliveries.enqueue_all(good))
        results = [one if isinstance(one, TorilError) else next(done) for one in read]
        return json_response(wire.encode([_item(index, one) for index, one in enumerate(results)]), 207)

    async def one(self, request: Request) -> Response:
        """Get a delivery with its history, or wait for its end or its next transition."""
        wait_s, after = _waiting(request)
        job_id = (await self._visible(request, Right.DELIVERIES_READ)).job_id
        await self._following.wait(job_id, after, wait_s)
        history = await self._reader.history(job_id)
        if history is None:
            raise JobNotFound
        return json_response(wire.whole(history, self._secret(request, history.delivery.target)))

    async def response(self, request: Request) -> Response:
        """Replay the last answer of the target."""
        job_id = (await self._visible(request, Right.DELIVERIES_READ)).job_id
        history = await self._reader.history(job_id)
        if history is None:
            raise JobNotFound
        if history.response is None:
            raise NoResponse
        return await self._replayed(job_id, history.response, self._secret(request, history.delivery.target))

    async def response_body(self, request: Request) -> Response:
        """Return the body of the target's last answer, as bytes. Needs the right to read payloads too."""
        one = await self._visible(request, Right.DELIVERIES_READ, body=True)
        history = await self._reader.history(one.job_id)
        if history is None:
            raise JobNotFound
        if history.response is None:
            raise NoResponse
        return await self._content(request, one.job_id, history.response.content)

    async def envelope(self, request: Request) -> Response:
        """Show what the target is sent, without the body. Without the right to read payloads, secrets are hidden."""
        one = await self._visible(request, Right.DELIVERIES_READ)
        return json_response(wire.envelope(await self._envelope(one), self._secret(request, one.target)))

    async def envelope_body(self, request: Request) -> Response:
        """Return the body that the target is sent, as bytes. Needs the right to read payloads too."""
        one = await self._visible(request, Right.DELIVERIES_READ, body=True)
        return await self._content(request, one.job_id, (await self._envelope(one)).content or Inline(b""))

    async def _envelope(self, one: Delivery) -> Envelope:
        found = await self._reader.envelope(one.job_id)
        if found is None:
            raise JobNotFound
        return found

    async def _content(self, request: Request, job_id: str, content: Content) -> Response:
        """Return a part of a body, as bytes that no browser interprets."""
        query = request.query()
        offset = integer_in(query, "offset", 0, _MOST, least=0)
        length = integer_in(query, "length", _MOST, _MOST)
        if isinstance(content, Inline):
            return BytesResponse(content.data[offset : offset + length], content_type=_BYTES, headers=_AS_BYTES)
        if owner(content.name) != job_id:
            raise BlobLost("The body in the ledger is another delivery's")
        parts = byte_window(self._spill.stream(content), offset, length)
        return StreamResponse(await anext(parts, b""), parts, _BYTES, _AS_BYTES)

    async def page(self, request: Request) -> Response:
        """List deliveries, the newest first."""
        which, before, limit = wire.read_filter(request.query())
        if which.targets is not None:
            request.demand(Right.DELIVERIES_READ, which.targets[0])
        elif not request.caller.all_queues:
            which = msgspec.structs.replace(which, targets=tuple(filter(request.caller.sees, self._targets)))
        found = await self._reader.page(which, before=before, limit=limit + 1)
        return wire.page(found, limit)

    async def cancel(self, request: Request) -> Response:
        """Cancel a delivery that has not finished."""
        one = await self._visible(request, Right.DELIVERIES_MANAGE)
        return json_response(wire.encode(wire.brief(await self._deliveries.cancel(one, request.caller.name))))

    async def _visible(self, request: Request, right: Right, *, body: bool = False) -> Delivery:
        """Return a delivery that the caller may see; a missing one is forbidden to a caller with limited rights.

        With `body`, the caller must be allowed to read payloads too.
        """
        try:
            one = await self._deliveries.find(request.path_params["job"])
        except JobNotFound:
            if request.caller.all_queues:
                raise
            raise Forbidden from None
        request.demand(right, one.target)
        if body and request.hides(one.target):
            raise Forbidden("A body is shown to tokens with the right payloads:read")
        return one

    async def _body(self, request: Request) -> bytes:
        try:
            # Base64 makes a third more of a body, and JSON's escapes may double a text.
            return await request.json_text(2 * self._max_body_bytes() + 2**20)
        except PayloadTooLarge as exc:
            raise EnvelopeTooLarge(exc.message) from exc

    def _read(self, caller: Caller, text: bytes, trace: tuple[tuple[str, str], ...]) -> EnqueueRequest | TorilError:
        try:
            submission = read_envelope(text, key=None, max_body_bytes=self._max_body_bytes(), batched=True)
            caller.demand(Right.DELIVERIES_ADD, submission.target)
        except TorilError as exc:
            return exc
        return replace(submission, trace=trace)

    def _secret(self, request: Request, target: str) -> tuple[str, ...] | None:
        """Return which headers of a target are hidden from the caller; None if it sees all."""
        redaction = request.hides(target)
        if redaction is None:
            return None
        spec = self._targets.get(target)
        own = None if spec is None else spec.auth.own_header
        return tuple(redaction.secret_headers if own is None else {*redaction.secret_headers, own})

    async def _replayed(self, job_id: str, response: TargetResponse, secret: tuple[str, ...] | None) -> Response:
        content = response.content
        if not _is_sound(response) or (isinstance(content, Stored) and owner(content.name) != job_id):
            raise NoResponse("The answer in the ledger is not one that can be sent")
        body = await self._spill.whole(content) if isinstance(content, Stored) else content.data
        kept = [(name.lower(), value) for name, value in response.headers]
        kind = next((value for name, value in kept if name == "content-type"), "application/octet-stream")
        hidden = frozenset() if secret is None else frozenset(name.lower() for name in secret)
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in kept
            if name not in _NOT_REPLAYED and name not in hidden and not name.startswith("toril-")
        ]
        headers += [
            (b"toril-job-id", job_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", b"sandbox; default-src 'none'"),
        ]
        if response.truncated:
            headers.append((b"toril-truncated", b"true"))
        return BytesResponse(body, response.status, kind.encode("latin-1"), headers)


def _is_sound(response: TargetResponse) -> bool:
    """Return True if the ledger's row holds an answer that a target can have given."""
    try:
        return 200 <= response.status <= 599 and all(
            is_header_name(name.encode("latin-1")) and is_header_value(value.encode("latin-1"))
            for name, value in response.headers
        )
    except UnicodeEncodeError:
        return False


def _status(done: Enqueued) -> int:
    return 200 if done.replayed else 202


def _item(index: int, one: Enqueued | TorilError) -> shapes.BatchResult:
    if isinstance(one, TorilError):
        answer = problem(one, own=True)
        return shapes.BatchResult(index, answer.status_code, error=msgspec.json.decode(answer.body, type=Problem))
    found = one.delivery
    return shapes.BatchResult(index, _status(one), found.job_id, found.target, found.status)


def _trace(request: Request, target: str) -> tuple[tuple[str, str], ...]:
    """Return the trace context of what a request sends to a target, as headers of an envelope."""
    return tuple((name.decode(), value.decode("latin-1")) for name, value in sent_trace(request.scope, target))


def _waiting(request: Request) -> tuple[float, int | None]:
    """Return how long to wait, and after which transition; not at all without `wait`."""
    query = request.query()
    fault = f"wait must be a number of seconds from 0 to {MAX_WAIT_S:g}"
    wait_s = seconds(query.get("wait", "0"), "wait", MAX_WAIT_S, fault)
    after = query.get("after")
    if after is None:
        return wait_s, None
    return wait_s, integer(after, "after", 0, _MOST_SEQ, "after must be the seq of a transition")
