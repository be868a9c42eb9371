"""One command for the tables: measures toril and its peers, and writes tables and charts into the documentation.

    python -m benchmarks.tables                              toril alone: some ten minutes, more on a busy machine
    python -m benchmarks.tables --bullmq-proxy /src/bullmq-proxy --proxq /src/proxq
    python -m benchmarks.tables --from benchmarks/results/tables.json --note "measured on …"

The tables go between their markers in `benchmarks/README.md`, the charts and the page that shows them below
`docs/explanation/`. Every figure of every round is in `benchmarks/results/tables.json`, from which `--from` writes
the same again.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import peers
from benchmarks.chart import Bar, number_of, svg
from benchmarks.growth import TITLES as GROWTH
from benchmarks.processes import ROOT, ProcessError, exit_on_sigterm, module
from benchmarks.proxy import TORIL as TORIL_PROXY
from benchmarks.servers import TORIL

README = ROOT / "benchmarks" / "README.md"
PAGE = ROOT / "docs" / "explanation" / "performance.md"
CHARTS = ROOT / "docs" / "explanation" / "performance"
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("run", "proxy", "growth")

Document = dict[str, Any]
_CHARTED = {
    "add-32": "add-32", "add-128": "add-128", "bulk": "bulk", "get": "get", "push": "push",
    "accepted/s, 32 connections": "accepted", "finished/s meanwhile": "meanwhile",
    "finished/s, concurrency 100": "finished", "passed through, requests/s, 32 connections": "passed-small",
    "passed through, download MB/s": "passed-download",
}  # fmt: skip
"""The scenarios that get a chart, and the names of its file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the tables and charts."""
    options = arguments_of(argv)
    exit_on_sigterm()
    try:
        document = msgspec.json.decode(options.results.read_bytes()) if options.results else measure(options)
    except KeyboardInterrupt:
        return 130
    except (ProcessError, OSError, msgspec.DecodeError) as exc:
        print(exc, file=sys.stderr)
        return 1
    write(document, options.note)
    return 0


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bullmq-proxy", type=Path, metavar="DIR", help="a checkout to measure beside toril (Bun)")
    parser.add_argument("--proxq", type=Path, metavar="DIR", help="a checkout to build and measure beside toril (Go)")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable (default: all)")
    parser.add_argument("--note", default="", help="what a reader has to know of this run")
    parser.add_argument(
        "--from",
        dest="results",
        type=Path,
        metavar="FILE",
        help="write what an earlier run measured, and measure nothing",
    )
    return parser.parse_args(argv)


def measure(options: argparse.Namespace) -> Document:
    """Run the benchmarks one after another, and return what they measured together with what was measured where.

    What an earlier run has measured of the parts that are left out is kept.

    Raises:
        ProcessError: a peer cannot be built, or a benchmark failed.
    """
    servers, proxies = {"toril": TORIL}, {"toril": TORIL_PROXY, "toril, two processes": _with_two(TORIL_PROXY)}
    if options.bullmq_proxy:
        servers["BullMQ Proxy"] = peers.bullmq_proxy(options.bullmq_proxy)
    if options.proxq:
        proxies["proxq"] = peers.proxq(options.proxq)
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "tables.json"
    parts = dict(msgspec.json.decode(kept.read_bytes())["parts"]) if kept.exists() else {}
    length = ["--seconds", str(options.seconds), "--rounds", str(options.rounds)]
    lines = {
        "run": module("run", *length, *_started(servers)),
        "proxy": module("proxy", *length, "--hold", "0", *_started(proxies)),
        "growth": module("growth", *length),
    }
    for part in options.part or PARTS:
        parts[part] = {**_about(options), "figures": _measured(part, lines[part])}
        kept.write_bytes(msgspec.json.format(msgspec.json.encode({"parts": parts})))
    return {"parts": parts}


def _measured(part: str, line: list[str]) -> object:
    file = RESULTS / f"{part}.json"
    file.unlink(missing_ok=True)
    ended = subprocess.run([*line, "--json", str(file)], cwd=ROOT, check=False)
    if not file.exists():
        raise ProcessError(f"benchmarks.{part} ended with {ended.returncode}")
    return msgspec.json.decode(file.read_bytes())


def _started(commands: Mapping[str, str]) -> list[str]:
    return [part for name, command in commands.items() for part in ("--start", f"{name}={command}")]


def _with_two(command: str) -> str:
    return command.replace("--processes 1", "--processes 2")


def _about(options: argparse.Namespace) -> Document:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "seconds": options.seconds,
        "rounds": options.rounds,
    }


def write(document: Document, note: str) -> None:
    """Write the tables into the README, and the charts with their page."""
    CHARTS.mkdir(exist_ok=True)
    readme, shown = README.read_text(), []
    for part, made in (("run", run_rows), ("proxy", proxy_rows), ("growth", growth_rows)):
        if (measured := document["parts"].get(part)) is None:
            continue
        about = " ".join([_how(measured), note]).strip()
        rows = made(measured["figures"])
        readme = between(readme, part, f"{about}\n\n{table(rows)}")
        charts = list(_charts(part, measured["figures"]))
        for name, picture in charts:
            (CHARTS / f"{name}.svg").write_text(picture)
        pictures = "\n\n".join(f"![{_title(picture)}](performance/{name}.svg)" for name, picture in charts)
        shown.append((part, f"{about}\n\n{pictures}" if charts else about))
    README.write_text(readme)
    page = PAGE.read_text()
    for part, text in shown:
        page = between(page, part, text)
    PAGE.write_text(page)


def _how(about: Document) -> str:
    return (
        f"{about['date']}, `{about['commit']}`, {about['cores']} cores, Python {about['python']}, "
        f"{about['rounds']} rounds of {about['seconds']:g} s; "
        f"the load of the machine before it began was {about['load']}."
    )


def between(text: str, name: str, new: str) -> str:
    """Return the text with what stands between the markers of this name replaced.

    Raises:
        ValueError: the text does not have both markers once, in their order.
    """
    first, last = f"<!-- bench-report: {name} -->", f"<!-- end of bench-report: {name} -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise ValueError(f"{first} and {last} have to be there once each, in this order")
    before, rest = text.split(first)
    return f"{before}{first}\n\n{new}\n\n{last}{rest.split(last)[1]}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table of Markdown; the first is its head."""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def run_rows(figures: Document) -> list[list[str]]:
    """Return the table of `benchmarks.run`: a row for each scenario and each of its contenders."""
    rows = [["scenario", "who", "per s (least to most)", "of the ceiling", "other figures"]]
    for scenario in figures["scenarios"].values():
        for who, one in scenario["contenders"].items():
            rates = [run["per_s"] for run in one["runs"]] if scenario["headline"] else []
            rates_told = f"{number_of(statistics.median(rates))} ({_range(rates)})" if rates else ""
            ratios = [
                f"{found['median']:.2f} of {found['ceiling']}" for found in scenario["ratios"] if found["target"] == who
            ]
            others = [
                f"{one['median'][column['key']]:,.{column['digits']}f} {column['heading']}"
                for column in scenario["columns"]
                if column["key"] != "per_s" and column["key"] in one["median"]
            ]
            rows.append([scenario["title"], who, rates_told, "; ".join(ratios), ", ".join(others)])
        rows += [[scenario["title"], "", "", "", f"**failed**: {failure}"] for failure in scenario["failed"]]
    return rows


def proxy_rows(figures: Document) -> list[list[str]]:
    """Return the table of `benchmarks.proxy`: a row for each figure of each of its targets."""
    rows = [["figure", "who", "median (least to most)", "of the ceiling"]]
    for what, found in figures.items():
        for who, values in found["rounds"].items():
            ratios = []
            for ceiling in () if who in found["ceilings"] else found["ceilings"]:
                pairs = zip(values, found["rounds"][ceiling], strict=True)
                ratios.append(f"{statistics.median([ours / theirs for ours, theirs in pairs]):.2f} of {ceiling}")
            told = f"{number_of(statistics.median(values))} ({_range(values)})"
            rows.append([what, who, told, "; ".join(ratios)])
    return rows


def growth_rows(figures: Document) -> list[list[str]]:
    """Return the table of `benchmarks.growth`: a row for each step of each scenario."""
    return [
        ["what grows", "step", "figures"],
        *(
            [GROWTH[name], step, ", ".join(f"{number_of(value)} {what}" for what, value in found.items())]
            for name, steps in figures.items()
            for step, found in steps.items()
        ),
    ]


def _charts(part: str, figures: Document) -> Iterator[tuple[str, str]]:
    """Yield the names and the charts of a part's scenarios."""
    if part == "run":
        for name, scenario in figures["scenarios"].items():
            if name in _CHARTED:
                bars = [
                    _bar(who, [run["per_s"] for run in one["runs"]], one["ceiling"])
                    for who, one in scenario["contenders"].items()
                ]
                yield (
                    _CHARTED[name],
                    svg(scenario["title"], "a second; the line is from the least to the greatest round", bars),
                )
    elif part == "proxy":
        for what, found in figures.items():
            if what in _CHARTED:
                bars = [_bar(who, values, who in found["ceilings"]) for who, values in found["rounds"].items()]
                yield (
                    _CHARTED[what],
                    svg(f"async proxy: {what}", "the line is from the least to the greatest round", bars),
                )
    else:
        for name, steps in figures.items():
            what = next(iter(next(iter(steps.values()))))
            bars = [_bar(step, [found[what]]) for step, found in steps.items()]
            yield f"growth-{name}", svg(GROWTH[name], what, bars)


def _bar(name: str, values: Sequence[float], ceiling: bool = False) -> Bar:
    return Bar(name, statistics.median(values), min(values), max(values), ceiling)


def _range(values: Sequence[float]) -> str:
    return f"{number_of(min(values))} to {number_of(max(values))}"


def _title(picture: str) -> str:
    return picture.partition("<title>")[2].partition("</title>")[0]


if __name__ == "__main__":
    sys.exit(main())
