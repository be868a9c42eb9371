"""The built wheel alone, in a new virtual environment: what a person does first, and what needs the packaged files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.documents import Reader, blocks
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.support.wheel_alone import wheel_alone
from toril import __version__

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "queues.md"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("toril-*.whl")
    return wheel_alone(folder / "venv", wheel, "embedded")


def outside(environment: Path, folder: Path, **more: str) -> dict[str, str]:
    """The variables of somebody who knows nothing of this repository."""
    return {"PATH": f"{environment}/bin:{os.environ['PATH']}", "HOME": str(folder), "PYTHONUNBUFFERED": "1"} | more


def run(environment: Path, folder: Path, *arguments: str, **more: str) -> str:
    env = outside(environment, folder, **more)
    done = subprocess.run(
        [f"{environment}/bin/toril", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def dev(environment: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """A `toril dev`, and a caller with its token."""
    port = str(free_port())
    with (tmp_path / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [f"{environment}/bin/toril", "dev", "--port", port],
            cwd=tmp_path,
            env=outside(environment, tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    token = tmp_path / "toril-data" / "token"
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            eventually(lambda: _is_ready(client), timeout_s=60, what=f"toril dev: {(tmp_path / 'dev.log').read_text()}")
            client.headers["authorization"] = f"Bearer {token.read_text().strip()}"
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_the_environment_holds_the_wheel_and_what_it_asks_for(environment: Path, tmp_path: Path) -> None:
    code = (
        "import toril, importlib.util as u; print(toril.__file__, [n for n in ('pytest', 'httpx') if u.find_spec(n)])"
    )
    python = [f"{environment}/bin/python", "-c", code]
    said = subprocess.run(python, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert said.startswith(str(environment))
    assert said.endswith("toril/__init__.py []\n")
    assert run(environment, tmp_path, "--version").startswith(f"toril {__version__} ")


def test_the_demo_loses_nothing(environment: Path, tmp_path: Path) -> None:
    assert "nothing lost" in run(environment, tmp_path, "demo", "--jobs", "200")


def test_dev_serves_people_agents_and_operators(environment: Path, tmp_path: Path, dev: httpx.Client) -> None:
    assert "<title>" in dev.get("/dashboard/").text
    assert dev.get("/dashboard/app.js").status_code == 200
    assert dev.get("/openapi.json").json()["info"]["version"] == __version__
    added = dev.post("/queues/orders/jobs", json=[{"name": "charge", "data": {"amount": 42}}]).json()[0]["id"]
    endpoint = {"url": str(dev.base_url.join("/inspect/charge")), "method": "POST"}
    assert dev.post("/workers", json={"queue": "orders", "endpoint": endpoint}).status_code == 200
    assert dev.get(f"/queues/orders/jobs/{added}/result", params={"wait": 30}).status_code == 200
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    asked |= {"params": {"name": "what_needs_attention", "arguments": {}}}
    answer = dev.post("/mcp", json=asked, headers={"accept": "application/json, text/event-stream"})
    assert answer.json()["result"].get("isError") is not True, answer.text
    operator = {"TORIL_URL": str(dev.base_url), "TORIL_TOKEN": dev.headers["authorization"].removeprefix("Bearer ")}
    assert "0 faults" in run(environment, tmp_path, "doctor", **operator)
    assert "orders" in run(environment, tmp_path, "queues", **operator)


def test_the_tutorial_can_be_followed(environment: Path, tmp_path: Path) -> None:
    toril, backend = str(free_port()), str(free_port())
    replaced = {"8080": toril, "3000,": f"{backend},", "127.0.0.1:3000": f"127.0.0.1:{backend}", "3000)": f"{backend})"}
    with Reader(tmp_path / "reader", ROOT, {"PORT": toril}, replaced, environment) as reader:
        assert reader.follow(TUTORIAL.read_text()) == len(list(blocks(TUTORIAL.read_text()))) > 3
