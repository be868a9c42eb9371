"""What the pages say of the tools, and the list of pages for language models."""

import re
from pathlib import Path

from tests.unit.mcp.test_tools import routes
from toril.mcp.routes import TOOLS

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_names_every_tool_with_its_rights() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (DOCS / "how-to" / "agents.md").read_text(), re.MULTILINE)
    assert rows == [(tool.name, " ".join(f"`{right}`" for right in tool.rights(routes()))) for tool in TOOLS]


def test_the_skill_names_only_tools_and_routes_that_there_are() -> None:
    text = (DOCS / "skills" / "toril" / "SKILL.md").read_text()
    known = {tool.name for tool in TOOLS} | {"dry_run"}
    assert set(re.findall(r"`([a-z]+_[a-z_]+)[`: ]", text)) <= known
    assert text.startswith("---\nname: toril\ndescription: ")
    served = {action.replace("{job}", "{id}") for action in routes()}
    named = re.findall(r"`((?:GET|POST) /[^`? ]+)", text)
    assert named
    assert [action for action in named if action not in served] == []


def test_every_page_that_llms_txt_names_exists() -> None:
    text = (DOCS / "llms.txt").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not (DOCS / (link.rstrip("/") + ".md")).is_file()] == []
    assert text.startswith("# toril\n\n> ")
