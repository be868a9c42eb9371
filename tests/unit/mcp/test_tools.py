"""The table of tools against the route table: what they ask, and what their hints say."""

from functools import cache
from typing import get_args

import pytest

from toril.asgi import create_app
from toril.bullmq.rules.actions import STATES
from toril.config.settings import Settings
from toril.core.access import Caller, Right
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.target import TargetSpec
from toril.mcp.delivery_tools import Status as ToldStatus
from toril.mcp.queue_tools import State as ToldState
from toril.mcp.routes import TOOLS
from toril.mcp.tool import InvalidArguments, Tool
from toril.web.routing import Route


@cache
def routes() -> dict[str, Route]:
    app = create_app(Settings(targets=(TargetSpec(name="billing", url="http://b"),)))
    return {f"{route.method} {route.path}": route for route in app.routes if isinstance(route, Route)}


def named(tool: Tool) -> str:
    return tool.name


@pytest.mark.parametrize("tool", TOOLS, ids=named)
def test_a_tool_asks_only_routes_that_there_are(tool: Tool) -> None:
    assert not [action for action in (*tool.routes, *tool.also) if action not in routes()]


@pytest.mark.parametrize("tool", TOOLS, ids=named)
def test_each_hint_is_true_to_the_methods_that_a_tool_uses(tool: Tool) -> None:
    hints = tool.described(routes())["annotations"]
    methods = {action.partition(" ")[0] for action in (*tool.routes, *tool.also)}
    assert hints["readOnlyHint"] == (methods == {"GET"})
    assert not (hints["readOnlyHint"] and hints["destructiveHint"])


@pytest.mark.parametrize("tool", TOOLS, ids=named)
def test_a_tool_is_for_callers_with_all_of_its_rights(tool: Tool) -> None:
    needed = tool.rights(routes())
    assert needed
    assert tool.is_for(Caller("all", frozenset(needed)), routes())
    for right in needed:
        assert not tool.is_for(Caller("less", frozenset(Right) - {right}), routes())


@pytest.mark.parametrize("tool", TOOLS, ids=named)
def test_every_argument_of_a_tool_has_a_type_and_no_other_is_taken(tool: Tool) -> None:
    schema = tool.described(routes())["inputSchema"]
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert "$ref" not in str(schema)
    with pytest.raises(InvalidArguments, match="other"):
        tool.read({"other": 1} | {name: name == "paused" or "x" for name in schema.get("required", [])})


def test_null_is_an_argument_left_out() -> None:
    (tool,) = [tool for tool in TOOLS if tool.name == "list_queues"]
    assert tool.read({"cursor": None, "limit": 5}) == tool.read({"limit": 5})


def test_states_and_statuses_are_those_of_the_doors() -> None:
    assert set(get_args(ToldState)) == set(STATES)
    assert set(get_args(ToldStatus)) == {status.value for status in Status}
