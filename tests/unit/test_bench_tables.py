"""What `make bench-report` writes. What it measures is tried by running it (benchmarks/README.md)."""

import xml.etree.ElementTree as ET

import pytest
from benchmarks import tables
from benchmarks.chart import Bar, number_of, svg
from benchmarks.growth import TITLES

RUN = {
    "scenarios": {
        "get": {
            "title": "get: one job",
            "headline": "per_s",
            "columns": [
                {"key": "per_s", "heading": "per s", "digits": 0},
                {"key": "p50_ms", "heading": "p50 ms", "digits": 1},
            ],
            "contenders": {
                "toril": {
                    "ceiling": False,
                    "median": {"per_s": 1500.0, "p50_ms": 2.04},
                    "runs": [{"per_s": 1000.0}, {"per_s": 2000.0}],
                },
                "raw ASGI": {"ceiling": True, "median": {"per_s": 3000.0}, "runs": [{"per_s": 3000.0}]},
            },
            "ratios": [{"target": "toril", "ceiling": "raw ASGI", "median": 0.5, "min": 0.4, "max": 0.6}],
            "failed": ["toril: it stood still"],
        }
    }
}
PROXY = {
    "accepted/s, 32 connections": {"ceilings": ["raw ASGI"], "rounds": {"raw ASGI": [10.0, 40.0], "toril": [5.0, 10.0]}}
}
GROWTH = {
    "size": {"100 B": {"µs of CPU each": 61.0, "adds/s": 12000.0}, "1 MB": {"µs of CPU each": 2800.4, "adds/s": 130.0}}
}


def test_the_table_of_servers_has_a_row_for_each_with_its_range_ratio_and_failures() -> None:
    assert tables.run_rows(RUN)[1:] == [
        ["get: one job", "toril", "1,500 (1,000 to 2,000)", "0.50 of raw ASGI", "2.0 p50 ms"],
        ["get: one job", "raw ASGI", "3,000 (3,000 to 3,000)", "", ""],
        ["get: one job", "", "", "", "**failed**: toril: it stood still"],
    ]


def test_ratios_of_proxies_are_taken_in_each_round() -> None:
    assert tables.proxy_rows(PROXY)[1:] == [
        ["accepted/s, 32 connections", "raw ASGI", "25.0 (10.0 to 40.0)", ""],
        ["accepted/s, 32 connections", "toril", "7.50 (5.00 to 10.0)", "0.38 of raw ASGI"],
    ]


def test_the_table_of_growth_has_a_row_for_each_step() -> None:
    assert tables.growth_rows(GROWTH)[1:] == [
        [TITLES["size"], "100 B", "61.0 µs of CPU each, 12,000 adds/s"],
        [TITLES["size"], "1 MB", "2,800 µs of CPU each, 130 adds/s"],
    ]


def test_tables_and_charts_go_between_their_markers_and_nothing_else_changes(
    tmp_path: tables.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = "".join(
        f"before {part}\n<!-- bench-report: {part} -->\nold\n<!-- end of bench-report: {part} -->\nafter\n"
        for part in tables.PARTS
    )
    for name in ("README", "PAGE"):
        monkeypatch.setattr(tables, name, tmp_path / name)
        (tmp_path / name).write_text(marked)
    monkeypatch.setattr(tables, "CHARTS", tmp_path / "charts")
    about = {
        "date": "2026-12-01",
        "commit": "abc",
        "cores": 2,
        "python": "3.11",
        "load": 9.0,
        "seconds": 1,
        "rounds": 2,
    }
    parts = {"run": {**about, "figures": RUN}, "proxy": {**about, "figures": PROXY}}
    for _ in range(2):  # writing again changes nothing
        tables.write({"parts": parts}, "A busy machine.")
        readme, page = (tmp_path / "README").read_text(), (tmp_path / "PAGE").read_text()
        assert readme.count("old") == page.count("old") == 1  # growth was not measured
        assert all(text.count(f"before {part}") == 1 for text in (readme, page) for part in tables.PARTS)
        assert readme.count("| get: one job | toril | 1,500 (1,000 to 2,000) |") == 1
        assert readme.count("load of the machine before it began was 9.0. A busy machine.") == 2
        assert page.count("![async proxy: accepted/s, 32 connections](performance/accepted.svg)") == 1
        assert sorted(file.name for file in (tmp_path / "charts").iterdir()) == ["accepted.svg", "get.svg"]


@pytest.mark.parametrize(
    "text", ["", "<!-- bench-report: run -->", "<!-- end of bench-report: run --><!-- bench-report: run -->"]
)
def test_a_page_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="in this order"):
        tables.between(text, "run", "new")


def test_a_chart_is_well_formed_and_its_bars_are_as_long_as_their_figures() -> None:
    picture = svg("adds <32>", "a second", [Bar("toril & co", 50.0, 40.0, 60.0), Bar("raw", 100.0, 100.0, 100.0, True)])
    root = ET.fromstring(picture)
    space = {"s": "http://www.w3.org/2000/svg"}
    assert root.findtext("s:title", namespaces=space) == "adds <32>"
    bars = {rect.get("class"): float(rect.get("width", 0)) for rect in root.findall("s:rect", space)}
    assert bars["target"] == pytest.approx(bars["ceiling"] / 2, rel=0.01)
    assert "prefers-color-scheme: dark" in picture


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (99.96, "100.0"), (2.345, "2.35"), (0.0, "0.00")])
def test_a_figure_has_the_digits_that_matter(value: float, shown: str) -> None:
    assert number_of(value) == shown


def test_a_peer_that_is_no_checkout_is_refused(tmp_path: tables.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.peers.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(tables.ProcessError, match=r"no src/index\.ts"):
        tables.peers.bullmq_proxy(tmp_path)


def test_a_peer_whose_runtime_is_missing_is_refused(tmp_path: tables.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.peers.shutil, "which", lambda name: None)
    with pytest.raises(tables.ProcessError, match="go is missing"):
        tables.peers.proxq(tmp_path)
