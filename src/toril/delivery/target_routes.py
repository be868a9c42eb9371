"""`/targets`: shows targets and their status, pauses and resumes them (wire/delivery.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from starlette.responses import Response

from toril.core.access import Right
from toril.core.errors import UnknownTarget, unwrapped
from toril.core.group_limits import GroupDefault
from toril.core.http.outbound_policy import OutboundPolicy
from toril.core.ports import Now
from toril.core.rollout import Reloads
from toril.core.times import duration_text, moment_text
from toril.delivery.ports import Breakers, JobCounts, TargetControl, TargetDepth
from toril.delivery.rules.breaker import Breaker
from toril.delivery.rules.delivery import queue_of
from toril.delivery.rules.target import BreakerPolicy, TargetSpec
from toril.telemetry.recent_attempts import WINDOW_S, AttemptCounts
from toril.web.openapi.description import DONE, About, Reply
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Handler, Route

_AT_ONCE = 25


class TargetDepths(Protocol):
    """A reader of the depths of targets."""

    async def depth(self, target: str) -> TargetDepth:
        """Return the counts of a target, and the age of its oldest delivery."""
        ...


class AttemptRates(Protocol):
    """Tells how many attempts of queues were made lately."""

    async def of(self, queues: Sequence[str]) -> Mapping[str, AttemptCounts]:
        """Return the counts of each of these queues; nothing where none are kept."""
        ...


class BreakerShape(Struct):
    """A target's circuit breaker: `closed`, `open`, `half_open`, or `off`.

    `failures` are those in a row now, or those that opened it.
    """

    state: str
    opened_at: str | None
    failures: int


_NO_BREAKER = BreakerShape("off", None, 0)


class DepthShape(Struct):
    """How many deliveries are in which state."""

    queued: int
    dispatching: int
    retrying: int


class RecentAttemptsShape(Struct):
    """How many attempts were made in the last `window_s` seconds by the whole fleet, and how many failed.

    `failure_rate` is from 0 to 1, null without attempts. The counts are up to ten seconds old, a minute where many
    queues are busy.
    """

    window_s: int
    attempts: int
    failed: int
    failure_rate: float | None


class TargetShape(Struct):
    """A target; `config` is as in the configuration file, without secrets. `paused_since` is null where not known.

    Until `held_until` nothing is sent to it, because it asked for that with `Retry-After`. `recent` counts the
    attempts of the last minutes.
    """

    name: str
    config: dict[str, Any]
    breaker: BreakerShape
    held_until: str | None
    depth: DepthShape
    oldest_age_s: float | None
    in_flight: int
    dead_letters: int
    paused: bool
    paused_since: str | None
    recent: RecentAttemptsShape
    config_generation: int
    pending_rollout: list[str]


class TargetList(Struct):
    """All targets that the token may see, and the changed settings that need a restart."""

    targets: list[TargetShape]
    pending_rollout: list[str]


class TargetStatusSources(Struct, frozen=True):
    """What the status of a target is read from. `specs` are the targets that run here, in the order of the file."""

    specs: Callable[[], Sequence[TargetSpec]]
    reloads: Reloads
    depths: TargetDepths
    rates: AttemptRates
    breakers: Breakers
    reader: JobCounts
    control: TargetControl
    now: Now


class TargetRoutes:
    """Routes that show, pause and resume targets."""

    def __init__(self, sources: TargetStatusSources) -> None:
        self._sources = sources

    def routes(self) -> list[Route]:
        """Return the routes."""
        read, manage = Right.TARGETS_READ, Right.TARGETS_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(f"/targets{path}", handler, method=method, right=right, own=True, about=about)

        switched = About((DONE,), errors=(UnknownTarget,))
        return [
            route("GET", "", self.all, read, About((Reply(TargetList, "Those that the token may see"),))),
            route(
                "GET", "/{target}", self.one, read, About((Reply(TargetShape, "The target"),), errors=(UnknownTarget,))
            ),
            route("POST", "/{target}/pause", self.pause, manage, switched),
            route("POST", "/{target}/resume", self.resume, manage, switched),
        ]

    async def all(self, request: Request) -> Response:
        """List targets with their status."""
        specs = [spec for spec in self._sources.specs() if request.caller.sees(spec.name)]
        counts = await self._sources.rates.of([queue_of(spec.name) for spec in specs])
        shown: list[TargetShape] = []
        for first in range(0, len(specs), _AT_ONCE):
            with unwrapped():
                async with asyncio.TaskGroup() as tasks:
                    reading = [
                        tasks.create_task(self._shape(spec, counts[queue_of(spec.name)]))
                        for spec in specs[first : first + _AT_ONCE]
                    ]
            shown += [task.result() for task in reading]
        rollout = self._sources.reloads.rollout
        # Only callers that may see all targets see what is pending beside them.
        pending = (
            rollout.pending
            if request.caller.all_queues
            else [key for spec in specs for key in rollout.pending_of(spec.name)]
        )
        return json_response(msgspec.json.encode(TargetList(shown, list(pending))))

    async def one(self, request: Request) -> Response:
        """Get a target with its status."""
        spec = self._spec(request)
        queue = queue_of(spec.name)
        counts = await self._sources.rates.of([queue])
        return json_response(msgspec.json.encode(await self._shape(spec, counts[queue])))

    async def pause(self, request: Request) -> Response:
        """Pause a target on all instances; attempts under way continue. Idempotent."""
        await self._sources.control.pause(queue_of(self._spec(request).name))
        return NO_CONTENT

    async def resume(self, request: Request) -> Response:
        """Resume a paused target, and end the hold that it asked for with `Retry-After`. Idempotent."""
        name = self._spec(request).name
        await self._sources.control.resume(queue_of(name))
        if await self._sources.breakers.release(name):
            # An open breaker holds the queue again when the next attempt asks it.
            await self._sources.control.let_go(queue_of(name))
        return NO_CONTENT

    def _spec(self, request: Request) -> TargetSpec:
        name = request.path_params["target"]
        for spec in self._sources.specs():
            if spec.name == name:
                return spec
        raise UnknownTarget

    async def _shape(self, spec: TargetSpec, recent: AttemptCounts) -> TargetShape:
        sources, queue = self._sources, queue_of(spec.name)
        depth = await sources.depths.depth(spec.name)
        breaker, now_s = await sources.breakers.read(spec.name), sources.now()
        held_until_s = breaker.held_until_s or 0.0
        counts = await sources.reader.counts(queue, ["active"])
        paused = await sources.control.paused(queue)
        since_ms = await sources.control.paused_since_ms(queue) if paused else None
        return TargetShape(
            name=spec.name,
            config=shown(spec),
            breaker=_NO_BREAKER if spec.breaker is None else _breaker(breaker),
            held_until=moment_text(held_until_s) if held_until_s > now_s else None,
            depth=DepthShape(depth.queued, depth.dispatching, depth.retrying),
            oldest_age_s=None if depth.oldest_s is None else round(max(0.0, now_s - depth.oldest_s), 3),
            in_flight=counts["active"],
            dead_letters=depth.dead_letters,
            paused=paused,
            paused_since=None if since_ms is None else moment_text(since_ms / 1000),
            recent=_recent(recent),
            config_generation=sources.reloads.rollout.generation,
            pending_rollout=list(sources.reloads.rollout.pending_of(spec.name)),
        )


def shown(spec: TargetSpec) -> dict[str, Any]:
    """Return a target as in the configuration file, with all defaults and without secrets."""
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
        "replay_key": spec.replay_key,
    }
    if spec.rate_limit is not None:
        config["rate_limit"] = {"max": spec.rate_limit.max, "per": duration_text(spec.rate_limit.per_s)}
    if spec.group_by is not None:
        config["group_by"] = f"labels.{spec.group_by}"
    if spec.group is not None:
        config["group"] = _group(spec.group)
    if spec.retry.schedule:
        config["retry"]["schedule"] = [duration_text(wait_s) for wait_s in spec.retry.schedule]
    if spec.auth.header is not None:
        config["auth"]["header"] = spec.auth.header
    if spec.auth.secret_file is not None:
        config["auth"]["secret_file"] = spec.auth.secret_file
    config["auth"].update(_client(spec.outbound))
    config.update(_way(spec.outbound))
    if spec.signing is not None:
        config["signing"] = {"secret_file": spec.signing.secret_file, "secrets": len(spec.signing.secrets)}
    return config


def _group(group: GroupDefault) -> dict[str, Any]:
    shown: dict[str, Any] = {} if group.concurrency is None else {"concurrency": group.concurrency}
    if group.limit is not None:
        shown["limit"] = {"max": group.limit.max, "duration": duration_text(group.limit.duration / 1000)}
    return shown


def _client(outbound: OutboundPolicy) -> dict[str, Any]:
    client = outbound.oauth2
    if client is None:
        return {}
    return {
        "token_url": client.token_url,
        "client_id": client.client_id,
        "secret_file": client.secret_file,
        "scopes": list(client.scopes),
    }


def _way(outbound: OutboundPolicy) -> dict[str, Any]:
    """Return `tls` and `proxy` as in the file, where they are given: names of files, and nothing of what is in them."""
    shown: dict[str, Any] = {}
    if outbound.tls is not None:
        files = {key: getattr(outbound.tls, key) for key in ("ca_file", "cert_file", "key_file")}
        shown["tls"] = {key: file for key, file in files.items() if file is not None}
    if outbound.proxy is not None:
        shown["proxy"] = {"url": outbound.proxy.url}
        if outbound.proxy.secret_file is not None:
            shown["proxy"]["secret_file"] = outbound.proxy.secret_file
    return shown


def _recent(counts: AttemptCounts) -> RecentAttemptsShape:
    return RecentAttemptsShape(WINDOW_S, counts.made, counts.failed, counts.failure_rate)


def _policy(policy: BreakerPolicy) -> dict[str, Any]:
    return {
        "failures": policy.failures,
        "failure_rate": policy.failure_rate,
        "min_attempts": policy.min_attempts,
        "window": duration_text(policy.window_s),
        "open_for": duration_text(policy.open_for_s),
        "half_open_probes": policy.half_open_probes,
    }


def statuses(found: frozenset[int]) -> list[int | str]:
    """Return statuses as the configuration file may have them: whole classes by their names."""
    classes = [digit for digit in (3, 4, 5) if found.issuperset(range(digit * 100, digit * 100 + 100))]
    single = sorted(status for status in found if status // 100 not in classes)
    return [*single, *(f"{digit}xx" for digit in classes)]


def _breaker(breaker: Breaker) -> BreakerShape:
    at_s = breaker.opened_at_s
    return BreakerShape(breaker.state.value, None if at_s is None else moment_text(at_s), breaker.counted)
