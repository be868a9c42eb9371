"""`/targets/{target}/dead-letters`: what was given up, to look at, to try once more, to be rid of
(wire/delivery.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from toril.core.access import Right
from toril.core.delivery import Delivery, is_job_id
from toril.core.enqueue import moment_s
from toril.core.errors import InvalidEnvelope, InvalidRequest, JobNotFound, JobRefused, UnknownTarget
from toril.core.lifecycle import Status
from toril.core.ports.ledger import AnyLedger, Filter
from toril.gateway import delivery_shapes as shapes
from toril.gateway import delivery_wire as wire
from toril.gateway.description import DONE, About, Reply
from toril.gateway.routing import Access, Answer, Handler, Request, Route
from toril.gateway.wire import NO_CONTENT, json_answer
from toril.intake.deliveries import Deliveries

MOST_REPLAYED = 10_000
DEFAULT_REPLAYED = 1_000
_BODY_BYTES = 2**20
_DEAD = (Status.DEAD_LETTERED,)


class ReplayAsk(Struct, forbid_unknown_fields=True):
    """Which dead letters to replay."""

    job_ids: Annotated[list[str], Meta(min_length=1, max_length=MOST_REPLAYED)] | UnsetType = UNSET
    since: str | UnsetType = UNSET
    until: str | UnsetType = UNSET
    error_contains: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MOST_REPLAYED)] | UnsetType = UNSET
    all: bool = False
    dry_run: bool = False

    @property
    def filtered(self) -> bool:
        """Whether anything narrows the choice down."""
        narrowing = (self.since, self.until, self.error_contains, self.labels, self.limit)
        return any(part is not UNSET for part in narrowing)


_ASK = msgspec.json.Decoder(ReplayAsk)


class DeadLetterRoutes:
    """Shows, replays and removes dead letters.

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
        """The routes of this module."""
        place, read, manage = "/targets/{target}/dead-letters", Right.DELIVERIES_READ, Right.DELIVERIES_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(method, f"{place}{path}", Access.TOKEN, handler, right, own=True, about=about)

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

    async def page(self, request: Request) -> Answer:
        """The newest dead letters that match; times are those when they became such."""
        target = await self._target(request)
        query = request.query()
        for name in ("target", "status"):
            if name in query:
                raise InvalidRequest(f"The path says the {name} already", field=name)
        which, before, limit = wire.read_filter(query)
        which = msgspec.structs.replace(which, targets=(target,), statuses=_DEAD, by_end=True)
        return wire.page(await self._ledger.page(which, before=before, limit=limit + 1), limit)

    async def replay(self, request: Request) -> Answer:
        """Replay some, or with `dry_run` say which those would be."""
        target = await self._target(request)
        ask = _decoded(await request.json(_BODY_BYTES))
        found = await self._found(target, ask)
        replayed: list[str] = []
        if not ask.dry_run:
            replayed = await self._deliveries.replay(found, request.caller.name)
        shown = [one.job_id for one in found] if ask.dry_run else replayed
        return json_answer(wire.encode({"matched": len(found), "replayed": len(replayed), "job_ids": shown}))

    async def purge(self, request: Request) -> Answer:
        """Remove one for good."""
        target = await self._target(request)
        one = await self._deliveries.find(request.segment(3))
        if one.target != target:
            raise JobNotFound
        await self._deliveries.purge(one)
        return NO_CONTENT

    async def _target(self, request: Request) -> str:
        target = request.segment(1)
        # One that was taken out of the configuration has left its dead letters here.
        if not self._known(target) and target not in await self._ledger.targets():
            raise UnknownTarget
        return target

    async def _found(self, target: str, ask: ReplayAsk) -> list[Delivery]:
        if ask.job_ids is not UNSET:
            some = await self._ledger.some([job_id for job_id in ask.job_ids if is_job_id(job_id)])
            return [one for one in some.values() if one.target == target and one.status is Status.DEAD_LETTERED]
        if ask.error_contains is not UNSET:
            wire.sound({"error_contains": ask.error_contains})
        which = Filter(
            targets=(target,),
            statuses=_DEAD,
            by_end=True,
            labels=() if ask.labels is UNSET else tuple(wire.sound(ask.labels).items()),
            since_s=None if ask.since is UNSET else _moment(ask.since, "since"),
            until_s=None if ask.until is UNSET else _moment(ask.until, "until"),
            error_contains=None if ask.error_contains is UNSET else ask.error_contains,
        )
        return await self._deliveries.dead_letters(which, DEFAULT_REPLAYED if ask.limit is UNSET else ask.limit)


def _decoded(text: bytes) -> ReplayAsk:
    try:
        ask = _ASK.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body must say which dead letters: {exc}") from exc
    given = (ask.job_ids is not UNSET) + ask.all + ask.filtered
    # How many is no choice of its own beside `all`.
    if given != 1 and not (ask.all and ask.job_ids is UNSET and _only_limit(ask)):
        raise InvalidRequest('The body must have either job_ids, or filters, or {"all": true}')
    return ask


def _only_limit(ask: ReplayAsk) -> bool:
    return all(part is UNSET for part in (ask.since, ask.until, ask.error_contains, ask.labels))


def _moment(text: str, field: str) -> float:
    try:
        return moment_s(text, field)
    except InvalidEnvelope as exc:
        raise InvalidRequest(exc.message, field=field) from None
