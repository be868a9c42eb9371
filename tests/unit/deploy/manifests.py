"""Reads `deploy/` as the tools do that it is for, as far as the tests need that."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from toril.cli.main import toril
from toril.cli.serve import serve_command
from toril.config.loading import load
from toril.config.settings import Role, Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents(file: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file, each a mapping."""
    found = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
    assert all(isinstance(document, dict) for document in found), file
    return found


def built(folder: Path) -> list[dict[str, Any]]:
    """The objects that a kustomization names, as `kubectl kustomize` would list them."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    assert set(kustomization) == {"apiVersion", "kind", "resources"}, "what else it does is not looked at here"
    found: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        # kustomize reads files of its own folder only, and other folders as kustomizations.
        assert path.is_dir() or path.parent == folder.resolve(), name
        found += built(path) if path.is_dir() else documents(path)
    return found


def role_of(arguments: list[str]) -> Role:
    """The role that a command line of `toril` asks for, which has to be one that `serve` takes."""
    command, *options = arguments
    assert command == "serve"
    try:
        given = serve_command.make_context(command, options, **toril.context_settings).params
    except click.ClickException as exc:
        pytest.fail(f"{arguments}: {exc.format_message()}")
    return Role(name=given["role"], targets=given["targets"])


def settings(text: str, files: dict[str, str], environment: dict[str, str], folder: Path) -> Settings:
    """A configuration as toril reads it where these files are mounted, by their absolute paths, under a folder."""
    for path, content in files.items():
        mounted = folder / path.lstrip("/")
        mounted.parent.mkdir(parents=True, exist_ok=True)
        mounted.write_text(content)
        assert path in text, f"{path} is mounted and not used"
        text = text.replace(f"{path}}}", f"{mounted}}}")
    file = folder / "toril.yaml"
    file.write_text(text)
    return load(environment, file)


def containers(objects: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each deployment's container, with its pod's spec and the deployment."""
    for thing in objects:
        if thing["kind"] == "Deployment":
            pod = thing["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield container, pod, thing
