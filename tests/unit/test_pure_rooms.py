"""The core and the rules ask no clock and no chance, touch no disk, and know no room but each other.

A contract in pyproject.toml lists the modules that they may not import, `time` and `os` among them.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "toril"
PURE = sorted(
    file.relative_to(SOURCE).as_posix()
    for folder in [SOURCE / "core", *SOURCE.glob("*/rules")]
    for file in folder.rglob("*.py")
)
CLOCKS = {"now", "utcnow", "today"}
OTHERS = {"open", "input", "print", "breakpoint", "exec", "eval", "__import__"}
ALSO_PURE = {"toril.http_client.egress"}
"""Pure modules outside of these rooms that rules may know."""


def impurities(source: str) -> list[str]:
    """Return what a module does that a pure one does not, as `line: what`."""
    return [f"{node.lineno}: {what}" for node in ast.walk(ast.parse(source)) if (what := _impurity(node))]


def _impurity(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Attribute(attr=str(name), value=ast.Name(id="datetime" | "date"))) if name in CLOCKS:
            return f"asks the clock ({name})"
        case ast.Call(func=ast.Attribute(attr="fromtimestamp"), args=[_], keywords=[]):
            return "takes the machine's time zone (fromtimestamp)"
        case ast.Call(func=ast.Attribute(attr="astimezone" | "localtime"), args=[], keywords=[]):
            return "takes the machine's time zone (astimezone)"
        case ast.Call(func=ast.Name(id=str(name))) if name in OTHERS:
            return f"calls {name}"
        case ast.ImportFrom(module=str(module)) if not _may_know(module):
            return f"imports {module}"
        case ast.Import(names=names) if any(not _may_know(alias.name) for alias in names):
            return f"imports {names[0].name}"
        case ast.Global(names=names):
            return f"changes the module's {names[0]}"
        case _:
            return None


def _may_know(module: str) -> bool:
    parts = module.split(".")
    if parts[0] != "toril" or module in ALSO_PURE:
        return True
    return len(parts) > 1 and (parts[1] == "core" or parts[2:3] == ["rules"])


def test_there_are_pure_rooms() -> None:
    assert {"core/lease.py", "queues/rules/worker.py", "delivery/rules/lifecycle.py"} <= set(PURE)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_asks_no_clock_and_knows_no_other_room(module: str) -> None:
    assert impurities((SOURCE / module).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "datetime.now(UTC)",
        "date.today()",
        "datetime.fromtimestamp(5)",
        "moment.astimezone()",
        "open('x')",
        "from toril.delivery.journal import Journal",
        "from toril.bullmq import keys",
        "import toril.redis.links",
        "def f():\n    from toril.web import wire",
        "def f():\n    global x",
    ],
)
def test_impure_code_is_found(source: str) -> None:
    assert len(impurities(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "now()",
        "datetime.fromtimestamp(5, UTC)",
        "moment.astimezone(UTC)",
        "from toril.core import lease",
        "from toril.core.lease import Lease",
        "from toril.bullmq.rules.job import JobSpec",
        "from datetime import datetime",
    ],
)
def test_pure_code_is_accepted(source: str) -> None:
    assert impurities(source) == []
