"""What `make dist` builds: the same bytes from the same commit, on two machines as far as one can be two."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from scripts import dist

from tests.support.toolchains import need
from toril import __version__

ROOT = Path(__file__).parents[2]
BUILDING_S = 600


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def built(clone: Path, **env: str) -> dict[str, bytes]:
    """Build in a new clone, with what has changed since the last commit; the files by name."""
    git("clone", "--quiet", str(ROOT), str(clone))
    changed = git("ls-files", "--modified", "--others", "--exclude-standard").splitlines()
    for name in changed:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "-m", "scripts.dist"]
    done = subprocess.run(command, cwd=clone, env=os.environ | env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run(["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True).stdout.count(
        b"\n"
    ) == len(changed), "building leaves nothing behind"
    return {file.name: file.read_bytes() for file in (clone / "dist").iterdir()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    need("npm")
    return built(tmp_path_factory.mktemp("first") / "toril")


@pytest.mark.node
@pytest.mark.timeout(BUILDING_S)
def test_two_builds_of_a_commit_have_the_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    """The second one is elsewhere, later, in another time zone and for another user's habits."""
    again = built(tmp_path / "another-and-longer-path", TZ="Asia/Kolkata", LC_ALL="C", HOME=str(tmp_path))
    assert {name: hashlib.sha256(data).hexdigest() for name, data in again.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }


@pytest.mark.node
@pytest.mark.timeout(BUILDING_S)
def test_all_that_is_published_is_built_and_has_the_version(files: dict[str, bytes]) -> None:
    assert sorted(files) == sorted(
        [
            f"toril-{__version__}-py3-none-any.whl",
            f"toril-{__version__}.tar.gz",
            f"toril_client-{__version__}-py3-none-any.whl",
            f"toril_client-{__version__}.tar.gz",
            f"toril-client-{__version__}.tgz",
            f"toril-go-{__version__}.zip",
            f"toril-chart-{__version__}.tgz",
        ]
    )


@pytest.mark.node
@pytest.mark.timeout(BUILDING_S)
def test_the_installed_wheel_says_its_version_and_commit(files: dict[str, bytes], tmp_path: Path) -> None:
    """So does what is built from the sdist, which has no repository."""
    wheel = tmp_path / f"toril-{__version__}-py3-none-any.whl"
    wheel.write_bytes(files[wheel.name])
    sdist = tmp_path / "sdist.tar.gz"
    sdist.write_bytes(files[f"toril-{__version__}.tar.gz"])
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"toril-{__version__}"
    rebuild = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "rebuilt")]
    subprocess.run(rebuild, cwd=unpacked, check=True, capture_output=True)
    for place, file in {"direct": wheel, "from-sdist": tmp_path / "rebuilt" / wheel.name}.items():
        with zipfile.ZipFile(file) as archive:
            archive.extractall(tmp_path / place)
        env = os.environ | {"PYTHONPATH": str(tmp_path / place)}
        command = [sys.executable, "-m", "toril", "--version"]
        said = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
        assert said.stdout == f"toril {__version__} (commit {git('rev-parse', 'HEAD')[:12]})\n"


def test_from_a_checkout_the_commit_is_the_checked_out_one() -> None:
    said = subprocess.run([sys.executable, "-m", "toril", "--version"], check=True, capture_output=True, text=True)
    assert said.stdout == f"toril {__version__} (commit {git('rev-parse', 'HEAD')[:12]})\n"


@pytest.mark.node
@pytest.mark.timeout(BUILDING_S)
def test_the_packages_hold_what_users_need_and_no_more(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with tarfile.open(tmp_path / f"toril-client-{__version__}.tgz") as archive:
        names = set(archive.getnames())
    assert {"package/LICENSE", "package/README.md", "package/package.json", "package/dist/index.js"} <= names
    assert {"package/dist/frameworks/express.js", "package/dist/frameworks/express.d.ts"} <= names
    assert not [name for name in names if "/test/" in name or "/src/" in name or "node_modules" in name]
    with zipfile.ZipFile(tmp_path / f"toril-go-{__version__}.zip") as archive:
        listed = archive.namelist()
    assert {name.partition("/")[0] for name in listed} == {f"toril@v{__version__}"}
    assert f"toril@v{__version__}/client.go" in listed
    assert f"toril@v{__version__}/LICENSE" in listed
    assert not [name for name in listed if name.endswith("_test.go")]
    with zipfile.ZipFile(tmp_path / f"toril_client-{__version__}-py3-none-any.whl") as archive:
        assert {"toril_client/flask.py", "toril_client/py.typed"} <= set(archive.namelist())


def test_all_versions_are_that_of_the_project() -> None:
    assert set(dist.versions().values()) == {dist.version()} == {__version__}
    assert "deploy/kubernetes/gateway/gateway.yaml" in dist.versions()


def test_nothing_is_built_where_versions_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dist, "version", lambda: "9.9.9")
    with pytest.raises(ValueError, match=r"has the version 9\.9\.9, and others have another one"):
        dist.build(tmp_path)


@pytest.mark.parametrize("commit", ["HEAD", "0" * 39, "$(id)"])
def test_what_is_no_commit_is_not_written_into_a_wheel(commit: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    env = os.environ | {"TORIL_COMMIT": commit}
    done = subprocess.run(command, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "TORIL_COMMIT must be a commit's 40 hexadecimal digits" in done.stderr
    assert list(tmp_path.glob("*.whl")) == []
