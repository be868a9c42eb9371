"""The workflows under `.github`: no more rights than publishing needs, and no registry named by its host."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / ".github/workflows").glob("*.yaml"))
TARGET = re.compile(r"\bmake ([a-z-]+)")


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)  # `on` is a key, and no truth value
    return document


RELEASE = read(ROOT / ".github/workflows/release.yaml")


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in document["jobs"].values() for step in job.get("steps", [])]


def test_there_are_the_workflows() -> None:
    assert [path.name for path in FILES] == ["release.yaml", "test.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_may_read_only_and_ends_by_itself(path: Path) -> None:
    document = read(path)
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        assert "uses" in job or int(job["timeout-minutes"]) <= 90, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_names_no_host_and_puts_no_expression_into_a_script(path: Path) -> None:
    """A tag's name is anybody's text: scripts get it from the environment."""
    text = path.read_text()
    assert "://" not in text
    assert re.findall(r"\b[\w-]+\.(?:io|org|com|dev)\b", text) == []
    for step in steps(read(path)):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_runs_what_there_is(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for step in steps(read(path)):
        for target in TARGET.findall(step.get("run", "")):
            assert f"\n{target}:" in makefile
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step["uses"]), step["uses"]
    assert "bash .ci/run" in (ROOT / ".github/workflows/test.yaml").read_text()
    assert (ROOT / ".ci/run").exists()


def test_a_release_is_tested_before_it_is_built_and_built_before_it_is_published() -> None:
    jobs = RELEASE["jobs"]
    assert RELEASE["on"] == {"push": {"tags": ["v*"]}}
    assert jobs["test"]["uses"] == "./.github/workflows/test.yaml"
    assert jobs["build"]["needs"] == "test"
    assert {jobs[name]["needs"] for name in ("python", "npm", "image")} == {"build"}


def test_what_is_published_has_provenance() -> None:
    jobs = RELEASE["jobs"]
    for name in ("build", "python", "npm", "image"):
        assert jobs[name]["permissions"]["id-token"] == "write", name
    used = [step.get("uses", "") for name in ("build", "image") for step in jobs[name]["steps"]]
    assert used.count("actions/attest-build-provenance@v3") == 2
    (image,) = [step["with"] for step in jobs["image"]["steps"] if step.get("id") == "push"]
    assert image["platforms"] == "linux/amd64,linux/arm64"
    assert (image["provenance"], image["sbom"]) == ("mode=max", "true")
    assert image["build-args"] == "TORIL_COMMIT=${{ github.sha }}"
    assert "ARG TORIL_COMMIT" in (ROOT / "Dockerfile").read_text()
    assert any("npm publish --provenance" in step.get("run", "") for step in jobs["npm"]["steps"])


def test_only_the_image_needs_a_secret_and_only_the_release_may_write() -> None:
    secrets = set(re.findall(r"secrets\.(\w+)", (ROOT / ".github/workflows/release.yaml").read_text()))
    assert secrets == {"IMAGE_USER", "IMAGE_TOKEN"}
    writers = {name for name, job in RELEASE["jobs"].items() if job.get("permissions", {}).get("contents") == "write"}
    assert writers == {"files"}
