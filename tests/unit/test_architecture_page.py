"""docs/explanation/architecture.md is a true map: its packages, its layers, and every file that a page names."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "toril"
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text()


def block_under(heading: str) -> list[str]:
    """The lines of the first code block under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2]
    return section.partition("```\n")[2].partition("```")[0].splitlines()


def packages_of_the_map() -> list[str]:
    found: list[str] = []
    parents: list[str] = []
    for line in block_under("The map"):
        if entry := re.fullmatch(r"( *)(\w+)/ +\S.*", line):
            parents = [*parents[: len(entry[1]) // 2], entry[2]]
            found.append("/".join(parents))
    return found


def test_the_map_has_every_package_and_no_other() -> None:
    packages = {str(file.parent.relative_to(SOURCE)) for file in SOURCE.rglob("__init__.py")} - {"."}
    found = packages_of_the_map()
    assert sorted(found) == sorted(packages)


def test_the_layers_are_those_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = project["tool"]["importlinter"]["contracts"][0]
    assert block_under("The layers") == [re.sub(r"[()]", "", layer) for layer in contract["layers"]]


def test_every_file_that_is_named_exists() -> None:
    pages = [PAGE, *(file.read_text() for file in (ROOT / "docs" / "decisions").glob("*.md"))]
    named = {path for page in pages for path in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", page)}
    assert len(named) > 40
    assert sorted(path for path in named if not any((root / path).exists() for root in (SOURCE, ROOT))) == []
