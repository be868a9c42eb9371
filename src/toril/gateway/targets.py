"""`/targets`: what each target is, how it fares, and stopping it for a while (wire/delivery.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from toril.core import moments
from toril.core.access import Right
from toril.core.breaker import Breaker
from toril.core.delivery import queue_of
from toril.core.durations import duration_text
from toril.core.errors import UnknownTarget
from toril.core.ports.calls import Breakers
from toril.core.ports.jobs import JobReader
from toril.core.ports.ledger import Depth
from toril.core.ports.queues import QueueControl
from toril.core.ports.shared import Now
from toril.core.rollout import Reloads
from toril.core.target import BreakerPolicy, TargetSpec
from toril.gateway import wire
from toril.gateway.description import DONE, About, Reply
from toril.gateway.routing import Access, Answer, Handler, Request, Route


class Depths(Protocol):
    """Tells what a target has in hand."""

    async def depth(self, target: str) -> Depth:
        """Counts, and the age of the oldest."""
        ...


class BreakerShape(Struct):
    """A target's circuit breaker: `closed`, `open`, `half_open`, or `off`; `failures` are those that count now."""

    state: str
    opened_at: str | None
    failures: int


_NO_BREAKER = BreakerShape("off", None, 0)


class DepthShape(Struct):
    """How many deliveries are in which state."""

    queued: int
    dispatching: int
    retrying: int


class TargetShape(Struct):
    """A target; `config` is as in the configuration file, without secrets."""

    name: str
    config: dict[str, Any]
    breaker: BreakerShape
    depth: DepthShape
    oldest_age_s: float | None
    in_flight: int
    dead_letters: int
    paused: bool
    config_generation: int
    pending_rollout: list[str]


class TargetList(Struct):
    """All targets that the token may see, and what of the configuration waits for a rollout."""

    targets: list[TargetShape]
    pending_rollout: list[str]


class Sights(Struct, frozen=True):
    """Where all that is told of a target is known. `specs` are those that run here, in the order of the file."""

    specs: Callable[[], Sequence[TargetSpec]]
    reloads: Reloads
    depths: Depths
    breakers: Breakers
    reader: JobReader
    control: QueueControl
    now: Now


class TargetRoutes:
    """Shows targets, pauses and resumes them."""

    def __init__(self, sights: Sights) -> None:
        self._sights = sights

    def routes(self) -> list[Route]:
        """The routes of this module."""
        read, manage = Right.TARGETS_READ, Right.TARGETS_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(method, f"/targets{path}", Access.TOKEN, handler, right, own=True, about=about)

        switched = About((DONE,), errors=(UnknownTarget,))
        return [
            route("GET", "", self.all, read, About((Reply(TargetList, "Those that the token may see"),))),
            route(
                "GET", "/{target}", self.one, read, About((Reply(TargetShape, "The target"),), errors=(UnknownTarget,))
            ),
            route("POST", "/{target}/pause", self.pause, manage, switched),
            route("POST", "/{target}/resume", self.resume, manage, switched),
        ]

    async def all(self, request: Request) -> Answer:
        """Every target that the caller may see."""
        specs = [spec for spec in self._sights.specs() if request.caller.sees(spec.name)]
        shown = [await self._shape(spec) for spec in specs]
        rollout = self._sights.reloads.rollout
        # What is pending beside the targets is told to those who may see all of them.
        pending = (
            rollout.pending
            if request.caller.all_queues
            else [key for spec in specs for key in rollout.pending_of(spec.name)]
        )
        return wire.json_answer(msgspec.json.encode(TargetList(shown, list(pending))))

    async def one(self, request: Request) -> Answer:
        """One target."""
        return wire.json_answer(msgspec.json.encode(await self._shape(self._spec(request))))

    async def pause(self, request: Request) -> Answer:
        """No attempt begins any more, on any instance; those under way go on. Idempotent."""
        await self._sights.control.pause(queue_of(self._spec(request).name))
        return wire.NO_CONTENT

    async def resume(self, request: Request) -> Answer:
        """Attempts begin again. Idempotent."""
        await self._sights.control.resume(queue_of(self._spec(request).name))
        return wire.NO_CONTENT

    def _spec(self, request: Request) -> TargetSpec:
        name = request.segment(1)
        for spec in self._sights.specs():
            if spec.name == name:
                return spec
        raise UnknownTarget

    async def _shape(self, spec: TargetSpec) -> TargetShape:
        sights, queue = self._sights, queue_of(spec.name)
        depth = await sights.depths.depth(spec.name)
        breaker = _NO_BREAKER
        if spec.breaker is not None:
            breaker = _breaker(*await sights.breakers.read(spec.name, spec.breaker))
        counts = await sights.reader.counts(queue, ["active"])
        return TargetShape(
            name=spec.name,
            config=shown(spec),
            breaker=breaker,
            depth=DepthShape(depth.queued, depth.dispatching, depth.retrying),
            oldest_age_s=None if depth.oldest_s is None else round(max(0.0, sights.now() - depth.oldest_s), 3),
            in_flight=counts["active"],
            dead_letters=depth.dead_letters,
            paused=await sights.control.paused(queue),
            config_generation=sights.reloads.rollout.generation,
            pending_rollout=list(sights.reloads.rollout.pending_of(spec.name)),
        )


def shown(spec: TargetSpec) -> dict[str, Any]:
    """A target as the configuration file has it, every default filled in, and no secret."""
    config: dict[str, Any] = {
        "url": spec.url,
        "timeout": {"connect": duration_text(spec.timeout.connect_s), "total": duration_text(spec.timeout.total_s)},
        "concurrency": spec.concurrency,
        "retry": {
            "max_attempts": spec.retry.max_attempts,
            "backoff": spec.retry.backoff,
            "base": duration_text(spec.retry.base_s),
            "max": duration_text(spec.retry.max_s),
            "jitter": spec.retry.jitter,
            "retry_on": statuses(spec.retry.retry_on),
            "fail_on": statuses(spec.retry.fail_on),
        },
        "breaker": "off" if spec.breaker is None else _policy(spec.breaker),
        "auth": {"scheme": spec.auth.scheme},
        "retention": {
            "delivered": duration_text(spec.retention.delivered_s),
            "dead_lettered": duration_text(spec.retention.dead_lettered_s),
            "cancelled": duration_text(spec.retention.cancelled_s),
        },
    }
    if spec.rate_limit is not None:
        config["rate_limit"] = {"max": spec.rate_limit.max, "per": duration_text(spec.rate_limit.per_s)}
    if spec.auth.header is not None:
        config["auth"]["header"] = spec.auth.header
    if spec.auth.secret_file is not None:
        config["auth"]["secret_file"] = spec.auth.secret_file
    if spec.signing is not None:
        config["signing"] = {"secret_file": spec.signing.secret_file, "secrets": len(spec.signing.secrets)}
    return config


def _policy(policy: BreakerPolicy) -> dict[str, Any]:
    return {
        "failures": policy.failures,
        "window": duration_text(policy.window_s),
        "open_for": duration_text(policy.open_for_s),
        "half_open_probes": policy.half_open_probes,
    }


def statuses(found: frozenset[int]) -> list[int | str]:
    """Statuses as the file may have them: whole classes by their names."""
    classes = [digit for digit in (3, 4, 5) if found.issuperset(range(digit * 100, digit * 100 + 100))]
    single = sorted(status for status in found if status // 100 not in classes)
    return [*single, *(f"{digit}xx" for digit in classes)]


def _breaker(breaker: Breaker, failures: int) -> BreakerShape:
    at_s = breaker.opened_at_s
    return BreakerShape(breaker.state.value, None if at_s is None else moments.shown(at_s), failures)
