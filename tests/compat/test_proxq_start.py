"""How it is started (wire/proxq.md, "Config"): which file counts, and what a bad one comes to."""

import os
from pathlib import Path

import pytest

from tests.support.commands import run_toril
from tests.support.proxq import Backend, StartProxq
from tests.support.valkey import ValkeyProcess

PLAIN = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")}


def refused(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What a start that is refused says."""
    done = run_toril(*arguments, env=PLAIN | (env or {}), cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_an_invalid_file_stops_the_start_and_every_fault_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "concurrency: many\nupstreams:\n  - {prefix: /a, url: 'http://x', timeout: 5}\n  - {url: 'http://y'}\n"
        "  - {prefix: /c, url: 'http://x', pathFilter: {patterns: ['([']}}\n"
    )
    said = refused(tmp_path, "serve", "--config", str(file))
    for part in ("4 fault(s)", "'many'", "/a", "5 is not a duration", "prefix is missing", "'(['"):
        assert part in said


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(tmp_path, "serve", env={"PROXQ_CONFIG": str(tmp_path / "nowhere.yaml")})


def test_a_file_without_upstreams_ends_the_start_where_proxq_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("redis: {addr: '127.0.0.1:6379'}\n")
    assert "at least one upstream" in refused(tmp_path, "check-config", env={"PROXQ_CONFIG": str(file)})


def test_config_yaml_in_the_current_folder_counts_if_it_has_upstreams(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("upstreams:\n  - {prefix: /a}\n")
    assert "url is missing" in refused(tmp_path, "check-config")


def test_a_file_with_the_keys_of_proxqs_example_left_empty_starts(
    start_proxq: StartProxq, valkey: ValkeyProcess, backend: Backend
) -> None:
    redis = {"addr": f"127.0.0.1:{valkey.port}", "password": "", "db": 0}
    entry = {"cacheKeyExcludeHeaders": [], "pathFilter": {"mode": "blacklist", "patterns": []}, "maxRetries": 0}
    upstream = {"prefix": "/api", "url": backend.url, **entry}
    for password in ("", None):
        proxq = start_proxq(valkey, {"redis": redis | {"password": password}, "upstreams": [upstream]})
        assert proxq.replayed("POST", f"/api{backend.path()}", body=b"x").body == b"x"


@pytest.mark.parametrize("variable", ["PROXQ_CONFIG"])
def test_the_environment_names_the_file(
    start_proxq: StartProxq, valkey: ValkeyProcess, backend: Backend, tmp_path: Path, variable: str
) -> None:
    proxq = start_proxq(valkey, {"upstreams": [{"prefix": "/", "url": backend.url}]}, named_by=variable)
    assert proxq.replayed("GET", backend.path()).status == 200
