"""MkDocs hook: generates the pages about routes and modules when the site is built.

Both come from docstrings, which change with every edit of the source, so a checked-in copy would be stale every day.
The tables that change rarely are checked in; see `scripts/reference.py`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "toril"
START_S = 30.0
# No Redis is needed to describe the routes: an address where nothing listens will do.
OWN = """
host: 127.0.0.1
redis: {url: "redis://127.0.0.1:1/0"}
targets: {billing: {url: "http://127.0.0.1:9"}}
ledger: {url: none}
"""
PROXY = """
listenAddress: 127.0.0.1:8080
redis: {addr: "127.0.0.1:1"}
upstreams: [{prefix: /api, url: "http://127.0.0.1:9"}]
"""


def on_config(config: Any) -> Any:
    """List every decision in the navigation, so that a new one needs no entry. MkDocs calls this once."""
    (explanation,) = (section["Explanation"] for section in config["nav"] if "Explanation" in section)
    (decisions,) = (part["Decisions"] for part in explanation if "Decisions" in part)
    decisions += [f"decisions/{file.name}" for file in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is generated in the place of its comment. MkDocs calls this for each page."""
    for name, generate in GENERATED.items():
        place = f"<!-- generated when the site is built: {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, "") + "\n" + generate()
    return markdown


def modules() -> str:
    """Every module with the first sentence of its docstring, by package."""
    parts = []
    for package in sorted(file.parent for file in SOURCE.rglob("__init__.py")):
        files = [file for file in sorted(package.glob("*.py")) if file.name != "__init__.py"]
        parts.append(f"## {_dotted(package)}\n\n{first_sentence(package / '__init__.py')}\n")
        if files:
            rows = [f"| `{file.stem}` | {first_sentence(file)} |" for file in files]
            parts.append("\n".join(["| module | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _dotted(package: Path) -> str:
    return ".".join(("toril", *package.relative_to(SOURCE).parts))


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    sentence, dot, _ = paragraph.partition(". ")
    return (sentence + dot.strip()).replace("|", r"\|")


def routes() -> str:
    """Every route and socket with its right, by tag, as OpenAPI documents of two instances have them."""
    own = openapi(OWN, "/openapi.json")
    proxied = {path: one for path, one in openapi(PROXY, "/__toril/openapi.json")["paths"].items() if _is_proxied(path)}
    by_tag: dict[str, list[str]] = {}
    for path, operations in {**own["paths"], **proxied}.items():
        for method, operation in operations.items():
            needs = _needs(operation)
            row = f"| `{method.upper()} {path}` | {needs} | {_cell(operation['summary'])} |"
            by_tag.setdefault(operation["tags"][0], []).append(row)
    parts = []
    for tag, rows in by_tag.items():
        parts += [f"## {tag.capitalize()}", "\n".join(["| route | needs | |", "|---|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _is_proxied(path: str) -> bool:
    return path.startswith(("/api/", "/__jobs/"))


def _needs(operation: dict[str, Any]) -> str:
    schemes: dict[str, list[str]] = {}
    for one in operation.get("security", []):
        schemes |= one
    if "lockToken" in schemes:
        return "the lock token"
    if "apiToken" not in schemes:
        return "no token"
    return " ".join(f"`{right}`" for right in schemes["apiToken"]) or "any right"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def openapi(config: str, path: str) -> dict[str, Any]:
    """The document that a toril with this configuration serves."""
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "toril.yaml", Path(folder) / "log"
        file.write_text(config)
        command = [sys.executable, "-m", "toril", "serve", "--config", str(file), "--host", "127.0.0.1", "--port", "0"]
        command += ["--processes", "1"]
        env = {**os.environ, "TORIL_LOG_FORMAT": "json", "AUTH_TOKENS": "docs", "TORIL_SHUTDOWN_DELAY": "0"}
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=env)
        try:
            return _get(process, log, path)
        finally:
            process.terminate()
            process.wait()


def _get(process: subprocess.Popen[bytes], log: Path, path: str) -> dict[str, Any]:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        for url in _listening(log):
            try:
                with urlopen(url + path) as answer:  # noqa: S310 - an address of ours
                    document: dict[str, Any] = json.load(answer)
                    return document
            except URLError:
                pass
        time.sleep(0.05)
    raise RuntimeError(f"toril did not serve {path}:\n{log.read_text()}")


def _listening(log: Path) -> Iterator[str]:
    for line in log.read_text().splitlines():
        if line.startswith("{") and (event := json.loads(line))["event"] == "listening":
            yield str(event["url"])


GENERATED: dict[str, Callable[[], str]] = {"routes": routes, "modules": modules}
