"""Runs the code blocks of a Markdown page as a reader would: files are written, commands typed, outputs compared.

- A block with a file name as its title (``python title="worker.py"``) is written to that file.
- ``console`` blocks are typed into a terminal: lines that begin with ``$`` (and those that a backslash continues) are
  commands, all others the output that the page shows. Without a title it is the reader's main terminal.
- A ``console`` block titled ``first terminal`` and so on starts a program that stays; its output has to appear.
- A ``text`` block with such a title is what that program prints next.

``…`` stands for anything, alone on a line for any lines. Ids, times, durations and rates need not be the same.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from tests.support.waiting import eventually

_BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TERMINAL = re.compile(r"\w+ terminal")
_VARYING = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s)\b"), "<duration>"),
    (re.compile(r"\b[\d,]+ jobs/s"), "<rate>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its title (or nothing), and what stands in it."""

    language: str
    title: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for language, title, text in _BLOCK.findall(page):
        yield Block(language, title, text)


def typed(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown for it."""
    command: list[str] = []
    output: list[str] = []
    for line in text.splitlines():
        goes_on = bool(command) and command[-1].endswith("\\") and not output
        if line.startswith("$ ") or goes_on:
            if not goes_on and command:
                yield "\n".join(command), "\n".join(output)
                command, output = [], []
            command.append(line if goes_on else line.removeprefix("$ "))
        else:
            output.append(line)
    if command:
        yield "\n".join(command), "\n".join(output)


def levelled(text: str) -> str:
    """A text without what is different each time."""
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return text


def fits(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows."""
    pattern = r"\s*".join(
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else ".*".join(re.escape(part) for part in line.strip().split("…")) + r"\s*\n"
        for line in levelled(shown).splitlines()
    )
    return re.fullmatch(rf"\s*{pattern}\s*", levelled(printed).strip() + "\n") is not None


class Program:
    """A program that stays, started in a terminal beside the main one."""

    def __init__(self, command: str, folder: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.printed = ""
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.start()

    def _read(self, output: IO[bytes]) -> None:
        while part := os.read(output.fileno(), 65536):
            self.printed += part.decode()

    def has_printed(self, shown: str) -> bool:
        """Whether these lines, one after the other, are in its output."""
        pattern = ".*".join(
            ".*".join(re.escape(part) for part in line.strip().split("…")) for line in levelled(shown).splitlines()
        )
        return re.search(pattern, levelled(self.printed), re.DOTALL) is not None

    def end(self) -> None:
        """Ctrl-C, and what it started with it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _programs_of(folder: Path) -> Path:
    """A folder with a `make` that installs nothing: the environment in .venv is the one that runs this test."""
    make = folder / "bin" / "make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\nexec {shutil.which("make")} -o .venv/.runs -o .venv/.ready "$@"\n')
    make.chmod(0o755)
    return make.parent


class Reader:
    """A reader who follows a page in a folder.

    Args:
        folder: where they are. It gets what the repository offers there: `.venv` and the Makefile.
        env: of all terminals, beside what they need.
        replaced: texts of the page, such as ports, and what stands for them here.
        environment: the virtual environment that they have; by default that of the tests.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        env: Mapping[str, str],
        replaced: Mapping[str, str],
        environment: Path = Path(sys.prefix),
    ) -> None:
        self._folder = folder
        self._replaced = replaced
        folder.mkdir()
        (folder / ".venv").symlink_to(environment)
        for name in ("Makefile", "pyproject.toml"):
            (folder / name).symlink_to(root / name)
        self._env = {
            "PATH": f"{_programs_of(folder)}:{environment / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONUNBUFFERED": "1",
        } | dict(env)
        self._programs: dict[str, Program] = {}
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(self._programs.values()):
            program.end()
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        for pipe in (self._shell.stdin, self._shell.stdout):
            assert pipe is not None
            pipe.close()

    def follow(self, page: str) -> int:
        """Do what every block of the page says. Returns how many there were."""
        done = list(blocks(page))
        # All at once: a port that stands for another text may hold a third one.
        wanted = re.compile("|".join(map(re.escape, self._replaced)) or "(?!)")
        for block in done:
            text = wanted.sub(lambda found: self._replaced[found.group()], block.text)
            self._do(Block(block.language, block.title, text))
        return len(done)

    def _do(self, block: Block) -> None:
        if _TERMINAL.fullmatch(block.title):
            if block.language == "console":
                [(command, shown)] = typed(block.text)
                self._programs[block.title] = Program(command, self._folder, self._env)
            else:
                shown = block.text
            program = self._programs[block.title]
            try:
                eventually(lambda: program.has_printed(shown), timeout_s=60, what=f"{block.title} to print {shown!r}")
            except AssertionError as exc:
                raise AssertionError(f"{exc}; it printed:\n{program.printed}") from exc
        elif block.language == "console":
            for command, shown in typed(block.text):
                printed = self._type(command)
                assert fits(shown, printed), f"$ {command}\nshown:\n{shown}\nprinted:\n{printed}"
        else:
            assert "." in block.title, f"nothing says what to do with this block: {block}"
            (self._folder / block.title).write_text(block.text)

    def _type(self, command: str) -> str:
        mark = f"done {time.monotonic_ns()}"
        stdin, stdout = self._shell.stdin, self._shell.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\necho; echo {mark}\n".encode())
        stdin.flush()
        printed = b""
        while not printed.endswith(f"\n{mark}\n".encode()):
            part = os.read(stdout.fileno(), 65536)
            assert part, f"the shell ended at: {command}"
            printed += part
        return printed.decode().removesuffix(f"\n{mark}\n").replace("\r\n", "\n")
