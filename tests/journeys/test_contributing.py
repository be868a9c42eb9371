"""CONTRIBUTING.md: a recipe that no longer works in a copy of the repository fails here."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from tests.support.recipes import Recipe, read_recipes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
REFERENCE = "make reference"
RECIPES = list(read_recipes(TEXT))
NOT_COPIED = shutil.ignore_patterns("node_modules", "dist", "build", ".venv", ".git", ".*_cache", "*-pytest-*.pyc")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what the recipes change and check, with the environment of the original."""
    copy = tmp_path / "toril"
    copy.mkdir()
    for folder in ("src", "tests", "docs", "scripts", "deploy", "clients/python"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=NOT_COPIED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    (copy / ".venv").symlink_to(sys.prefix)
    assert (copy / ".venv/.ready").exists(), "the recipes run make, which would make .venv anew: use `make test` first"
    os.utime(copy / "pyproject.toml", (0, 0))  # older than .venv, so that make does not install into it
    return copy


def run(command: str, repository: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MAKE"))}
    environment |= {"PYTHONPATH": str(repository / "src")}
    return subprocess.run(
        command.split(), cwd=repository, env=environment, check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=280,
    )  # fmt: skip


def failed(commands: Iterable[str], repository: Path) -> list[str]:
    """Return what was printed by the commands that failed."""
    done = [run(command, repository) for command in commands]
    return [each.stdout for each in done if each.returncode != 0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_works_to_the_letter(recipe: Recipe, repository: Path) -> None:
    assert len(recipe.steps) >= 4
    assert [path for path in recipe.paths if not (repository / path).exists()] == []
    for step in recipe.steps:
        step.follow(repository)
    assert failed(recipe.commands, repository) == []
    assert failed(["make lint"], repository) == []


@pytest.mark.parametrize(
    "recipe", [each for each in RECIPES if REFERENCE in each.commands], ids=lambda each: each.title
)
def test_a_reference_page_that_was_not_written_anew_fails_the_check(recipe: Recipe, repository: Path) -> None:
    for step in recipe.steps:
        step.follow(repository)
    assert len(failed([command for command in recipe.commands if command != REFERENCE], repository)) == 1


def test_there_is_a_recipe_for_each_frequent_kind_of_addition() -> None:
    assert {recipe.title for recipe in RECIPES} >= {"A route", "A setting", "A metric", "A Lua script"}


def test_every_command_and_path_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", TEXT)) <= targets
    for path in re.findall(r"(?:\(|`|pytest )((?:docs|src|tests|clients)/[\w./-]*)", TEXT):
        assert (ROOT / path).exists(), path
    chosen = re.search(r"pytest (tests/\S+ -k \w+)$", TEXT, re.MULTILINE)
    assert chosen is not None
    collected = run(f"{sys.executable} -m pytest --collect-only -q {chosen[1]}", ROOT).stdout
    assert "::test_" in collected, collected


def test_a_commit_is_checked_by_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = re.search(r"^CHECKS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert checks is not None
    assert {hook["entry"] for hook in hooks} == {f"make {check}" for check in checks[1].split()}


def test_make_help_tells_of_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    told = re.findall(r"^  make ([a-z-]+) +\S", run("make help", ROOT).stdout, re.MULTILINE)
    assert set(told) == set(phony[1].split())
    assert set(told) == set(re.findall(r"^([a-z-]+):(?! *=)", makefile, re.MULTILINE))
