"""What is logged is in the operators' table of events."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def logged(file: Path) -> Iterator[str]:
    """The events that a module logs: the first argument of `log.warning(…)`, or of `tell(…)` that stands for one."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
            continue
        by_name = isinstance(node.func, ast.Name) and node.func.id == "tell"
        by_log = (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "log"
        )
        if by_name or by_log:
            yield str(node.args[0].value)


def test_every_event_that_is_logged_is_in_the_table_of_the_operators() -> None:
    table = (ROOT / "docs" / "reference" / "log-events.md").read_text()
    events = {event for file in (ROOT / "src").rglob("*.py") for event in logged(file)}
    assert "ledger.several_on_one_redis" in events
    assert sorted(event for event in events if f"`{event}`" not in table) == []
