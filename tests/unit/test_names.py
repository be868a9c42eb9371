"""The source keeps to its limits of size, and no two classes share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "toril"

MOST_LINES = 400
MOST_MODULES = 20

SAME_NAME: dict[str, str] = {}
"""Public names that several classes have, each with the reason."""

LONG_FILES: dict[str, str] = {}
"""Files over the limit, by their paths in `src/toril`, each with the reason."""

FULL_FOLDERS: dict[str, str] = {}
"""Folders over the limit, by their paths in `src/toril`, each with the reason."""


def modules() -> Iterator[tuple[str, str]]:
    """The path of each module in `src/toril`, and its text."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), path.read_text()


def shared_names(files: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """The names of public classes that stand in several of these files, with the paths of those files."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path, text in files:
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    return {name: paths for name, paths in places.items() if len(paths) > 1}


def long_files(files: Iterator[tuple[str, str]]) -> dict[str, int]:
    """The files that have more than `MOST_LINES` lines, with their number."""
    lines = {path: len(text.splitlines()) for path, text in files}
    return {path: count for path, count in lines.items() if count > MOST_LINES}


def full_folders(files: Iterator[tuple[str, str]]) -> dict[str, int]:
    """The folders that have more than `MOST_MODULES` modules beside `__init__.py`, with their number."""
    counts: defaultdict[str, int] = defaultdict(int)
    for path, _ in files:
        folder, _, name = path.rpartition("/")
        counts[folder] += name != "__init__.py"
    return {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def test_no_two_public_classes_have_one_name() -> None:
    assert {name: places for name, places in shared_names(modules()).items() if name not in SAME_NAME} == {}


def test_no_file_is_longer_than_the_limit() -> None:
    assert {path: lines for path, lines in long_files(modules()).items() if path not in LONG_FILES} == {}


def test_no_folder_has_more_modules_than_the_limit() -> None:
    assert {path: count for path, count in full_folders(modules()).items() if path not in FULL_FOLDERS} == {}


def test_every_exempted_name_file_and_folder_is_still_over_its_limit() -> None:
    assert SAME_NAME.keys() <= shared_names(modules()).keys()
    assert LONG_FILES.keys() <= long_files(modules()).keys()
    assert FULL_FOLDERS.keys() <= full_folders(modules()).keys()


def test_a_name_in_two_files_is_found() -> None:
    files = {"a.py": "class Job: ...\nclass _Own: ...\n", "b/c.py": "class Job: ...\nclass _Own: ...\n"}
    assert shared_names(iter(files.items())) == {"Job": ["a.py", "b/c.py"]}


def test_files_and_folders_over_the_limits_are_found() -> None:
    assert long_files(iter({"a.py": "\n" * 400, "b.py": "\n" * 401}.items())) == {"b.py": 401}
    room = {f"room/{number}.py": "" for number in range(20)} | {"room/__init__.py": ""}
    assert full_folders(iter(room.items())) == {}
    assert full_folders(iter((room | {"room/20.py": ""}).items())) == {"room": 21}
