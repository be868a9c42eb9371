"""`/enqueue` and `/jobs`: deliveries accepted, followed, listed, cancelled (wire/delivery.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from toril.core.access import Caller, Right
from toril.core.blob import owner
from toril.core.delivery import Delivery, RecordedResponse, Stored
from toril.core.enqueue import BatchItem, Posted, Submission, check_key, read_batch, read_envelope
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
from toril.core.headers import HOP_BY_HOP, is_header_name, is_header_value
from toril.core.lifecycle import Status
from toril.core.ports.ledger import LedgerReader
from toril.core.redaction import SECRET_HEADERS
from toril.core.target import TargetSpec
from toril.gateway import delivery_shapes as shapes
from toril.gateway import delivery_wire as wire
from toril.gateway.description import About, Parameter, Reply
from toril.gateway.idempotency_key import refuse_key, single_key
from toril.gateway.mounting import url_path
from toril.gateway.problems import PROBLEM, problem
from toril.gateway.routing import Access, Answer, Handler, Header, Request, Route
from toril.gateway.wire import json_answer
from toril.intake.deliveries import Deliveries, Enqueued
from toril.intake.following import Following
from toril.intake.spill import Spill

MAX_WAIT_S = 60.0
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
    """Accepts deliveries and tells of them.

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
        following: Following,
        spill: Spill,
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
        """The routes of this module."""
        add, read, manage = Right.DELIVERIES_ADD, Right.DELIVERIES_READ, Right.DELIVERIES_MANAGE

        def route(method: str, template: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(method, template, Access.TOKEN, handler, right, own=True, about=about)

        brief = shapes.DeliveryBrief
        filters = (Parameter("target", str, "Only of this target"), Parameter("status", Status, "Only those"))
        accepted = (
            Reply(brief, "Accepted", 202),
            Reply(brief, "Accepted before, under the same key: as it stands"),
        )
        refusals = (InvalidEnvelope, UnknownTarget, EnvelopeTooLarge)
        results = Reply(list[shapes.BatchResult], "What became of each, in order", 207)
        one = Reply(shapes.DeliveryJob, "The delivery")
        replayed = Reply(bytes, "The answer, with its own status, headers and body", content_type="*/*")
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
                "DELETE", "/jobs/{job}", self.cancel, manage,
                About((Reply(brief, "Cancelled"),), errors=(JobNotFound, JobRefused)),
            ),
        ]  # fmt: skip

    async def enqueue(self, request: Request) -> Answer:
        """Accept an envelope."""
        try:
            given = single_key(request.scope["headers"])
        except InvalidRequest as exc:
            raise InvalidEnvelope(exc.message, field=exc.field) from exc
        key = None if given is None else given.decode("latin-1")
        if key is not None:
            check_key(key, "idempotency-key")
        text = await self._body(request)
        submission = read_envelope(text, key=key, max_body_bytes=self._max_body_bytes())
        request.demand(Right.DELIVERIES_ADD, submission.target)
        done = await self._deliveries.enqueue(submission)
        location = url_path(request.scope, b"/jobs/" + done.delivery.job_id.encode())
        return Answer(
            _status(done),
            b"application/json",
            wire.encode(wire.brief(done.delivery)),
            ((b"location", location), *(_REPLAYED if done.replayed else ())),
        )

    async def enqueue_batch(self, request: Request) -> Answer:
        """Accept envelopes, each for itself."""
        refuse_key(request.scope["headers"], "each envelope of a batch carries its own idempotency_key")
        texts = read_batch(await self._body(request))
        read = [self._read(request.caller, text) for text in texts]
        good = [one for one in read if isinstance(one, Submission)]
        done = iter(await self._deliveries.enqueue_all(good))
        results = [one if isinstance(one, TorilError) else next(done) for one in read]
        return json_answer(wire.encode([_item(index, one) for index, one in enumerate(results)]), 207)

    async def one(self, request: Request) -> Answer:
        """A delivery with its history; with `wait`, once something has come of it."""
        wait_s, after = _waiting(request)
        job_id = (await self._visible(request, Right.DELIVERIES_READ)).job_id
        await self._following.wait(job_id, after, wait_s)
        history = await self._reader.history(job_id)
        if history is None:
            raise JobNotFound
        return json_answer(wire.whole(history, self._secret(request, history.delivery.target)))

    async def response(self, request: Request) -> Answer:
        """The last answer of the target, as it came."""
        job_id = (await self._visible(request, Right.DELIVERIES_READ)).job_id
        history = await self._reader.history(job_id)
        if history is None:
            raise JobNotFound
        if history.response is None:
            raise NoResponse
        return await self._replayed(job_id, history.response, self._secret(request, history.delivery.target))

    async def page(self, request: Request) -> Answer:
        """The newest deliveries that match."""
        which, before, limit = wire.read_filter(request.query())
        if which.targets is not None:
            request.demand(Right.DELIVERIES_READ, which.targets[0])
        elif not request.caller.all_queues:
            which = msgspec.structs.replace(which, targets=tuple(filter(request.caller.sees, self._targets)))
        found = await self._reader.page(which, before=before, limit=limit + 1)
        return wire.page(found, limit)

    async def cancel(self, request: Request) -> Answer:
        """Cancel a delivery that is not over."""
        one = await self._visible(request, Right.DELIVERIES_MANAGE)
        return json_answer(wire.encode(wire.brief(await self._deliveries.cancel(one, request.caller.name))))

    async def _visible(self, request: Request, right: Right) -> Delivery:
        """A delivery that the caller may know of; who may not know of all is told the same of what is not there."""
        try:
            one = await self._deliveries.find(request.segment(1))
        except JobNotFound:
            if request.caller.all_queues:
                raise
            raise Forbidden from None
        request.demand(right, one.target)
        return one

    async def _body(self, request: Request) -> bytes:
        try:
            # Base64 makes a third more of a body, and JSON's escapes may double a text.
            return await request.json(2 * self._max_body_bytes() + 2**20)
        except PayloadTooLarge as exc:
            raise EnvelopeTooLarge(exc.message) from exc

    def _read(self, caller: Caller, text: bytes) -> Submission | TorilError:
        try:
            submission = read_envelope(text, key=None, max_body_bytes=self._max_body_bytes(), batched=True)
            caller.demand(Right.DELIVERIES_ADD, submission.target)
        except TorilError as exc:
            return exc
        return submission

    def _secret(self, request: Request, target: str) -> tuple[str, ...] | None:
        """Return which headers of a target are hidden from the caller beside the usual ones; None: it sees all."""
        if not request.hides(target):
            return None
        spec = self._targets.get(target)
        own = None if spec is None else spec.auth.own_header
        return () if own is None else (own,)

    async def _replayed(self, job_id: str, response: RecordedResponse, secret: tuple[str, ...] | None) -> Answer:
        content = response.content
        if not _is_sound(response) or (isinstance(content, Stored) and owner(content.name) != job_id):
            raise NoResponse("The answer in the ledger is not one that can be sent")
        body = await self._spill.whole(content) if isinstance(content, Stored) else content.data
        kept = [(name.lower(), value) for name, value in response.headers]
        kind = next((value for name, value in kept if name == "content-type"), "application/octet-stream")
        hidden = frozenset() if secret is None else SECRET_HEADERS.union(name.lower() for name in secret)
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
        return Answer(response.status, kind.encode("latin-1"), body, tuple(headers))


def _is_sound(response: RecordedResponse) -> bool:
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


def _item(index: int, one: Enqueued | TorilError) -> dict[str, object]:
    if isinstance(one, TorilError):
        answer = problem(one, own=True)
        document = msgspec.json.decode(answer.body) if answer.content_type == PROBLEM else {}
        return {"index": index, "status_code": answer.status, "error": document}
    return {"index": index, "status_code": _status(one), **wire.brief(one.delivery)}


def _waiting(request: Request) -> tuple[float, int | None]:
    """For how long to wait, and behind which transition; none at all without `wait`."""
    query = request.query()
    try:
        wait_s = float(query.get("wait", "0"))
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidRequest(f"wait must be a number of seconds from 0 to {MAX_WAIT_S:g}", field="wait")
    after = query.get("after")
    if after is None:
        return wait_s, None
    if not (after.isascii() and after.isdecimal() and len(after) < 10):
        raise InvalidRequest("after must be the seq of a transition", field="after")
    return wait_s, int(after)
