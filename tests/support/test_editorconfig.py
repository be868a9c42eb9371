"""Every file of the repository keeps to .editorconfig."""

import configparser
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INDENTS = {"space": re.compile(r"( *)\S"), "tab": re.compile(r"(\t*) ?\S")}


def sections() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield the patterns of each section, and what it asks for."""
    parser = configparser.ConfigParser(default_section="")
    parser.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    for name in parser.sections():
        braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
        parts = [f"{braces[1]}{each}{braces[3]}" for each in braces[2].split(",")] if braces else [name]
        yield parts, dict(parser[name])


def asked_of(path: str) -> dict[str, str]:
    """Return what .editorconfig asks of a file: a later section wins."""
    asked: dict[str, str] = {}
    for patterns, properties in sections():
        if any(fnmatch(path if "/" in pattern else Path(path).name, pattern) for pattern in patterns):
            asked |= properties
    return asked


def faults(path: str, text: str) -> list[str]:
    """Return where a file does something else."""
    asked = asked_of(path)
    found = [] if text.endswith("\n") and not text.endswith("\n\n") else ["it does not end with one line break"]
    if "\r" in text:
        found.append("it has carriage returns")
    style = asked["indent_style"]
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip(" \t"):
            found.append(f"line {number} ends in spaces")
        if line and style != "unset" and not INDENTS[style].match(line):
            found.append(f"line {number} is not indented by {style}s")
    return found


def test_every_file_keeps_to_the_editorconfig() -> None:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("this is no git repository")
    paths = [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]
    assert len(paths) > 500
    texts = {path: (ROOT / path).read_bytes() for path in paths}
    wrong = {path: faults(path, text.decode()) for path, text in texts.items() if text and b"\0" not in text}
    assert {path: found[:3] for path, found in wrong.items() if found} == {}


def test_editorconfig_faults_are_found() -> None:
    assert faults("a.py", "if x:\n    y\n") == []
    assert faults("a.py", "x") == ["it does not end with one line break"]
    assert faults("a.py", "x \n\ty\r\n") == [
        "it has carriage returns",
        "line 1 ends in spaces",
        "line 2 is not indented by spaces",
    ]
    assert faults("Makefile", "a:\n    b\n") == ["line 2 is not indented by tabs"]
    assert faults("clients/go/x.go", "a {\n\tb\n}\n") == []
