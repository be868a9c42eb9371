"""`/targets/{target}/dead-letters`: lists, replays and removes dead letters (wire/delivery.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from toril.core.access import Right
from toril.core.errors import InvalidEnvelope, InvalidRequest, JobNotFound, JobRefused, UnknownTarget
from toril.delivery import delivery_shapes as shapes
from toril.delivery import delivery_wire as wire
from toril.delivery.deliveries import Deliveries
from toril.delivery.ports import AnyLedger, DeliveryFilter
from toril.delivery.rules.delivery import Delivery, is_job_id
from toril.delivery.rules.enqueue import moment_s
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.target import ReplayKey
from toril.web.openapi.description import DONE, About, Reply
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Handler, Route

MOST_REPLAYED = 10_000
DEFAULT_REPLAYED = 1_000
_BODY_BYTES = 2**20
_DEAD = (Status.DEAD_LETTERED,)


class ReplayAsk(Struct, forbid_unknown_fields=True):
    """Which dead letters to replay, and whether with a new `idempotency-key`; by default as the target says."""

    job_ids: Annotated[list[str], Meta(min_length=1, max_length=MOST_REPLAYED)] | UnsetType = UNSET
    since: str | UnsetType = UNSET
    until: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    error_contains: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MOST_REPLAYED)] | UnsetType = UNSET
    all: bool = False
    dry_run: bool = False
    replay_key: ReplayKey | UnsetType = UNSET

    @property
    def filtered(self) -> bool:
        """True if a filter limits the choice."""
        return self.limit is not UNSET or self.is_narrow

    @property
    def is_narrow(self) -> bool:
        """True if a filter other than the limit limits the choice."""
        narrowing = (self.since, self.until, self.reason, self.error_contains, self.labels)
        return any(part is not UNSET for part in narrowing)


_ASK = msgspec.json.Decoder(ReplayAsk)


class DeadLetterRoutes:
    """Routes that list, replay and remove dead letters.

    Args:
        deliveries: replays and removes.
        ledger: to read.
        known: whether a target is configured.
    """

    def __init__(self, deliveries: Deliveries, ledger: AnyLedger, known: Callable[[str], bool]) -> None:
        self._deliveries = deliveries
        self._ledger = ledger
        self._known = known

    def routes(self) -> list[Route]:
        """Return the routes."""
        place, read, manage = "/targets/{target}/dead-letters", Right.DELIVERIES_READ, Right.DELIVERIES_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(f"{place}{path}", handler, method=method, right=right, own=True, about=about)

        return [
            route(
                "GET", "", self.page, read,
                About((Reply(shapes.DeliveryPage, "A page"),), parameters=shapes.PAGE, errors=(UnknownTarget,)),
            ),
            route(
                "POST", "/replay", self.replay, manage,
                About((Reply(shapes.Replayed, "What was done"),), body=ReplayAsk, errors=(UnknownTarget,)),
            ),
            route(
                "DELETE", "/{job}", self.purge, manage,
                About((DONE,), errors=(UnknownTarget, JobNotFound, JobRefused)),
            ),
        ]  # fmt: skip

    async def page(self, request: Request) -> Response:
        """List the dead letters of a target, the newest first, by the time at which they became dead letters."""
        target = await self._target(request)
        query = request.query()
        for name in ("target", "status"):
            if name in query:
                raise InvalidRequest(f"The path says the {name} already", field=name)
        which, before, limit = wire.read_filter(query)
        which = msgspec.structs.replace(which, targets=(target,), statuses=_DEAD, by_end=True)
        return wire.page(await self._ledger.page(which, before=before, limit=limit + 1), limit)

    async def replay(self, request: Request) -> Response:
        """Replay dead letters, or with `dry_run` list those that would be replayed."""
        target = await self._target(request)
        ask = _decoded(await request.json_text(_BODY_BYTES))
        found = await self._found(target, ask)
        replayed: list[str] = []
        if not ask.dry_run:
            key = None if ask.replay_key is UNSET else ask.replay_key
            replayed = await self._deliveries.replay(found, request.caller.name, key)
        shown = [one.job_id for one in found] if ask.dry_run else replayed
        return json_response(wire.encode(shapes.Replayed(len(found), len(replayed), shown)))

    async def purge(self, request: Request) -> Response:
        """Remove a dead letter for good."""
        target = await self._target(request)
        one = await self._deliveries.find(request.path_params["job"])
        if one.target != target:
            raise JobNotFound
        await self._deliveries.purge(one)
        return NO_CONTENT

    async def _target(self, request: Request) -> str:
        target: str = request.path_params["target"]
        # One that was taken out of the configuration has left its dead letters here.
        if not self._known(target) and target not in await self._ledger.targets():
            raise UnknownTarget
        return target

    async def _found(self, target: str, ask: ReplayAsk) -> list[Delivery]:
        if ask.job_ids is not UNSET:
            some = await self._ledger.some([job_id for job_id in ask.job_ids if is_job_id(job_id)])
            return [one for one in some.values() if one.target == target and one.status is Status.DEAD_LETTERED]
        reason = None if ask.reason is UNSET else ask.reason
        error_contains = None if ask.error_contains is UNSET else ask.error_contains
        wire.sound({"reason": reason or "", "error_contains": error_contains or ""})
        which = DeliveryFilter(
            targets=(target,),
            statuses=_DEAD,
            by_end=True,
            labels=() if ask.labels is UNSET else tuple(wire.sound(ask.labels).items()),
            since_s=None if ask.since is UNSET else _moment(ask.since, "since"),
            until_s=None if ask.until is UNSET else _moment(ask.until, "until"),
            reason=reason,
            error_contains=error_contains,
        )
        return await self._deliveries.dead_letters(which, DEFAULT_REPLAYED if ask.limit is UNSET else ask.limit)


def _decoded(text: bytes) -> ReplayAsk:
    try:
        ask = _ASK.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body must say which dead letters: {exc}") from exc
    given = (ask.job_ids is not UNSET) + ask.all + ask.filtered
    # A limit alone narrows nothing down, so `all` may have one.
    if given != 1 and not (ask.all and ask.job_ids is UNSET and not ask.is_narrow):
        raise InvalidRequest('The body must have either job_ids, or filters, or {"all": true}')
    return ask


def _moment(text: str, field: str) -> float:
    try:
        return moment_s(text, field)
    except InvalidEnvelope as exc:
        raise InvalidRequest(exc.message, field=field) from None
