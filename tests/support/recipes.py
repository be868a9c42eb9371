"""The recipes of CONTRIBUTING.md, as steps that can be followed in a copy of the repository."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_RECIPE = re.compile(r"^### (?P<title>.+?)\n(?P<body>.+?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^\d\. (?P<text>.+?)(?=^\d\. |^Then )", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^Then (?P<text>.+?)\Z", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?P<ticks>`+) ?(?P<code>.+?) ?(?P=ticks)(?!`)")
_BLOCK = re.compile(r"^ *```\w*\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """Write `lines` into `file`, before or after the only line there that begins with `anchor`."""

    file: str
    where: Literal["before", "after"]
    anchor: str
    lines: tuple[str, ...]

    def follow(self, root: Path) -> None:
        """Change the file in a copy of the repository."""
        path = root / self.file
        lines = path.read_text().splitlines()
        found = [number for number, line in enumerate(lines) if line.lstrip().startswith(self.anchor)]
        assert len(found) == 1, f"{self.file} has {len(found)} lines that begin with {self.anchor!r}"
        indent = lines[found[0]].removesuffix(lines[found[0]].lstrip())
        place = found[0] + (self.where == "after")
        lines[place:place] = [textwrap.indent(line, indent) for line in self.lines]
        path.write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Recipe:
    """Steps to follow, the commands that must succeed after them, and the paths that its other steps speak of."""

    title: str
    steps: tuple[Step, ...]
    paths: tuple[str, ...]
    commands: tuple[str, ...]


def read_recipes(document: str) -> Iterator[Recipe]:
    """Yield the recipes of a document: a heading, numbered steps, and `Then` with commands."""
    for recipe in _RECIPE.finditer(document):
        texts = [step["text"] for step in _STEP.finditer(recipe["body"])]
        commands = _COMMANDS.search(recipe["body"])
        assert texts, f"{recipe['title']} has no steps"
        assert commands, f"{recipe['title']} does not say what to run"
        steps = [_step(text) for text in texts]
        paths = [code for text, step in zip(texts, steps, strict=True) if step is None for code in _codes(text)]
        yield Recipe(
            recipe["title"],
            tuple(step for step in steps if step is not None),
            tuple(path for path in paths if path.startswith(("src/", "tests/", "docs/"))),
            tuple(_codes(commands["text"])),
        )


def _step(text: str) -> Step | None:
    """Return the change that a step describes; None where it describes none that can be followed to the letter."""
    block = _BLOCK.search(text)
    codes = list(_codes(_BLOCK.sub("", text)))
    where = re.search(r"`, (before|after) `", text)
    if where is None or len(codes) < 2:
        return None
    lines = textwrap.dedent(block["code"]).splitlines() if block else [codes[-1]]
    return Step(codes[0], "before" if where[1] == "before" else "after", codes[1], tuple(lines))


def _codes(text: str) -> Iterable[str]:
    return (code["code"] for code in _CODE.finditer(" ".join(text.split())))
