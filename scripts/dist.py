"""Builds what is published: wheels and sdists of toril and its Python client, the npm package, the Go
module, the Helm chart.

    python -m scripts.dist [FOLDER]

The same commit gives the same bytes: times come from the commit, and nothing else of the machine goes in. All have the
version in pyproject.toml; where another file has another one, nothing is built.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CLIENTS = ROOT / "clients"
CHART = ROOT / "deploy/helm/toril"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can have; Go ignores it."""


def version() -> str:
    """Return the version of everything, which pyproject.toml has."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def versions() -> dict[str, str]:
    """Return the versions in the files that must have one as text, by file."""
    package = json.loads((CLIENTS / "typescript/package.json").read_text())
    lock = json.loads((CLIENTS / "typescript/package-lock.json").read_text())
    found = {
        "clients/python/pyproject.toml": tomllib.loads((CLIENTS / "python/pyproject.toml").read_text())["project"][
            "version"
        ],
        "clients/typescript/package.json": package["version"],
        "clients/typescript/package-lock.json": lock["packages"][""]["version"],
    }
    for manifest in sorted((ROOT / "deploy").rglob("*.yaml")):
        for tag in re.findall(r"\bimage: toril:(\S+)", manifest.read_text()):
            found[str(manifest.relative_to(ROOT))] = tag
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return found | {"deploy/helm/toril/Chart.yaml": chart["version"], "its appVersion": chart["appVersion"]}


def build(folder: Path) -> list[Path]:
    """Build everything into a folder, which is emptied first; the files, by name.

    Raises:
        ValueError: a file has another version than pyproject.toml.
    """
    wrong = {file: other for file, other in versions().items() if other != version()}
    if wrong:
        raise ValueError(f"pyproject.toml has the version {version()}, and others have another one: {wrong}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for project in (ROOT, CLIENTS / "python"):
        _run("-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(folder.resolve()), at=project)
    _pack_typescript(folder)
    _zip_go(folder / f"toril-go-{version()}.zip")
    pack_chart(folder / f"toril-chart-{version()}.tgz")
    return sorted(folder.iterdir())


def _run(*arguments: str, at: Path, program: str = sys.executable) -> str:
    seconds = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True
    ).stdout.strip()
    env = os.environ | {"SOURCE_DATE_EPOCH": seconds}
    done = subprocess.run([program, *arguments], cwd=at, env=env, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{program} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _pack_typescript(folder: Path) -> None:
    package = CLIENTS / "typescript"
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed, and the TypeScript client is built with it")
    if not (package / "node_modules/.bin/tsc").exists():
        _run("ci", "--silent", at=package, program=npm)
    shutil.rmtree(package / "dist", ignore_errors=True)
    shutil.copy(ROOT / "LICENSE", package)
    try:
        _run("pack", "--silent", "--pack-destination", str(folder.resolve()), at=package, program=npm)
    finally:
        (package / "LICENSE").unlink()


def _zip_go(file: Path) -> None:
    """Write the module as Go has it: `MODULE@vVERSION/FILE`, without tests."""
    module = CLIENTS / "go"
    listed = subprocess.run(
        ["git", "-C", str(module), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout.split("\0")
    sources = {name: module / name for name in listed if name and not name.endswith("_test.go")}
    sources["LICENSE"] = ROOT / "LICENSE"
    name = (module / "go.mod").read_text().split("\n", 1)[0].removeprefix("module ").strip()
    with zipfile.ZipFile(file, "w") as archive:
        for path, source in sorted(sources.items()):
            entry = zipfile.ZipInfo(f"{name}@v{version()}/{path}", _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, source.read_bytes())


def pack_chart(file: Path) -> None:
    """Write what `helm package` would, with the same bytes each time."""
    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for source in sorted(path for path in CHART.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(f"toril/{source.relative_to(CHART)}")
            entry.size, entry.mode = source.stat().st_size, 0o644
            with source.open("rb") as content:
                archive.addfile(entry, content)


if __name__ == "__main__":
    for built in build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"):
        print(built)
