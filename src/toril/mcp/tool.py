"""`Tool`: what an agent may call, the routes that it is made of, and its arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from toril.core.access import Caller, Right
from toril.mcp.inner_requests import InnerRequests
from toril.web.routing import Route

Answer = dict[str, Any]
Routes = Mapping[str, Route]
"""The routes of an instance by method and path: `GET /queues/{queue}`."""


class NoArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a tool that takes none."""


class InvalidArguments(Exception):
    """The arguments of a tool are not valid."""


class Tool(Struct, frozen=True):
    """A tool: its name, its description for the agent, the struct of its arguments, and the function that runs it.

    It needs every one of its `routes`, and the token's right to them. Those in `also` are asked where the token may. A
    tool asks no other route, so its hints follow from the rights of these.
    """

    name: str
    title: str
    text: str
    arguments: type[Struct]
    routes: tuple[str, ...]
    run: Callable[[InnerRequests, Any], Awaitable[Answer]]
    also: tuple[str, ...] = ()

    def is_served(self, routes: Routes) -> bool:
        """Return True if this instance has the routes that the tool needs."""
        return all(name in routes for name in self.routes)

    def rights(self, routes: Routes) -> list[Right]:
        """Return the rights that the tool needs."""
        return sorted({right for name in self.routes if (right := routes[name].right) is not None})

    def is_for(self, caller: Caller, routes: Routes) -> bool:
        """Return True if the tool is served, and the caller has its rights on some queue or target."""
        return self.is_served(routes) and all(caller.may(right) for right in self.rights(routes))

    def described(self, routes: Routes) -> dict[str, Any]:
        """Return the tool as it is listed. `readOnlyHint` and `destructiveHint` follow from the rights that it needs:
        a tool that needs only rights to read changes nothing, and one with a right to add only adds.
        """
        rights = self.rights(routes)
        return {
            "name": self.name,
            "title": self.title,
            "description": self.text,
            "inputSchema": _schema(self.arguments),
            "annotations": {
                "title": self.title,
                "readOnlyHint": all(right.endswith(":read") for right in rights),
                "destructiveHint": any(right.endswith(":manage") for right in rights),
            },
        }

    def read(self, given: Mapping[str, Any]) -> Struct:
        """Return the arguments of a call; null is the same as leaving an argument out.

        Raises:
            InvalidArguments: naming the argument.
        """
        try:
            return msgspec.convert({name: value for name, value in given.items() if value is not None}, self.arguments)
        except msgspec.ValidationError as exc:
            raise InvalidArguments(f"Invalid arguments of {self.name}: {exc}") from exc


def _schema(kind: type[Struct]) -> dict[str, Any]:
    """Return the JSON Schema of an argument struct, which has no structs in it."""
    whole = msgspec.json.schema(kind)
    found: dict[str, Any] = whole["$defs"][kind.__name__]
    return {name: part for name, part in found.items() if name not in {"title", "description"}}
