"""`/queues/{queue}/groups`: lists groups, sets their limits, pauses, resumes and drains them."""

from __future__ import annotations

from fnmatch import translate
from re import compile as pattern
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from toril.bullmq.ports.groups import GroupDrains, GroupStore
from toril.bullmq.rules.actions import GroupChange, Nothing, read_action
from toril.bullmq.rules.groups import GroupState, check_group_id
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.groups import shapes
from toril.queues.shapes import answers
from toril.web.openapi.description import DONE, About, Parameter, Reply
from toril.web.parameters import cursor_of, integer_in, read_cursor
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Handler, Route

_MAX_BODY_BYTES = 64 * 1024
MAX_LIMIT = 1000
_encode = msgspec.json.Encoder().encode
_LIST = About(
    (Reply(shapes.GroupPage, "The groups that have jobs or limits"),),
    parameters=(
        Parameter("match", str, "A glob that the ids must match"),
        Parameter("limit", Annotated[int, Meta(ge=1, le=MAX_LIMIT)], "The most groups on a page; 100 by default"),
        Parameter("cursor", str, "The `next_cursor` of the page before"),
    ),
)
_STATE = Reply(shapes.Group, "The group")


class GroupRoutes:
    """Routes that read and change the groups of a queue; `drains` removes what waits in them."""

    def __init__(
        self,
        groups: GroupStore,
        drains: GroupDrains | None = None,
        *,
        names: NameRules,
        now: Now,
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._groups = groups
        self._drains = drains
        self._names = names
        self._now = now
        self._confirmed = acknowledging.handler

    def routes(self) -> list[Route]:
        """Return the routes."""
        read, manage = Right.QUEUES_READ, Right.QUEUES_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            template = f"/queues/{{queue}}/groups{path}"
            answered = handler if method == "GET" else self._confirmed(handler)
            return Route(template, answered, method=method, right=right, own=True, about=about)

        action = About((DONE,), body=Nothing, body_required=False)
        return [
            route("GET", "", self.page, read, _LIST),
            route("GET", "/{group}", self.get, read, About((_STATE,))),
            route("PUT", "/{group}", self.put, manage, About((_STATE,), body=GroupChange)),
            route("DELETE", "/{group}", self.remove, manage, About((DONE,))),
            route("POST", "/{group}/pause", self.pause, manage, action),
            route("POST", "/{group}/resume", self.resume, manage, action),
            route(
                "POST",
                "/{group}/drain",
                self.drain,
                manage,
                About((Reply(answers.Removed, "How many jobs were removed"),), body=Nothing, body_required=False),
            ),
        ]

    def _named(self, request: Request) -> tuple[str, str]:
        """Return the queue and the group in the path."""
        queue, group = request.queue, request.path_params["group"]
        self._names.check(queue)
        check_group_id(group)
        return queue, group

    def _shown(self, state: GroupState) -> shapes.Group:
        until_ms = state.held_until_ms(self._now() * 1000)
        own, holds = state.limits, state.limits.with_default(state.default)
        return shapes.Group(
            id=state.id,
            waiting=state.waiting,
            active=state.active,
            paused=own.paused,
            limits=shapes.Limits(own.concurrency, own.limit, own.weight, own.max_waiting),
            effective=shapes.Limits(holds.concurrency, holds.limit, own.weight or 1, own.max_waiting),
            held_until=None if until_ms is None else moment_text(until_ms / 1000),
        )

    async def page(self, request: Request) -> Response:
        """List the groups of a queue that have waiting or active jobs, or limits."""
        self._names.check(request.queue)
        query = request.query()
        most = integer_in(query, "limit", 100, MAX_LIMIT)
        matches = pattern(translate(query.get("match") or "*")).match
        found, has_more = await self._groups.page(request.queue, _place(query.get("cursor", "")), most, matches)
        cursor = cursor_of(found[-1].id) if has_more else None
        return json_response(_encode(shapes.GroupPage([self._shown(state) for state in found], cursor)))

    async def get(self, request: Request) -> Response:
        """Get a group: its jobs and its limits."""
        return json_response(_encode(self._shown(await self._groups.get(*self._named(request)))))

    async def put(self, request: Request) -> Response:
        """Replace the limits of a group; they count at once."""
        queue, group = self._named(request)
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), GroupChange)
        await self._groups.set_limits(queue, group, asked.limits(), paused=asked.paused)
        return await self.get(request)

    async def remove(self, request: Request) -> Response:
        """Remove the limits and the pause of a group."""
        await self._groups.remove_limits(*self._named(request))
        return NO_CONTENT

    async def pause(self, request: Request) -> Response:
        """Pause a group: none of its jobs starts."""
        await self._groups.pause(*await self._asked(request))
        return NO_CONTENT

    async def resume(self, request: Request) -> Response:
        """Resume a paused group."""
        await self._groups.resume(*await self._asked(request))
        return NO_CONTENT

    async def drain(self, request: Request) -> Response:
        """Remove the waiting jobs of a group; in the queue of a target, cancel its waiting deliveries."""
        queue, group = await self._asked(request)
        if self._drains is None:
            removed = await self._groups.drain(queue, group)
        else:
            removed = await self._drains.drain(queue, group, request.caller)
        return json_response(_encode(answers.Removed(removed)))

    async def _asked(self, request: Request) -> tuple[str, str]:
        named = self._named(request)
        read_action(await request.json_text(_MAX_BODY_BYTES), Nothing)
        return named


def _place(cursor: str) -> str:
    try:
        return read_cursor(cursor)
    except ValueError as exc:
        raise InvalidRequest(f"Invalid cursor {cursor[:100]}", field="cursor") from exc
