"""A running `toril dev`, and a caller with its token."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.gateway import PLAIN, Gateway
from tests.support.ports import free_port
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually


class Dev:
    """A running `toril dev` that follows a file, and a caller with its token."""

    def __init__(self, process: TorilProcess, file: Path, below: str) -> None:
        self.process = process
        self.file = file
        found = re.search(r"token\s+(\S{16,})", process.log())
        assert found, process.log()
        self.url = process.url
        self.token = found.group(1)
        self.gateway = Gateway(process.url + below, self.token)
        self.plain = httpx.Client(base_url=process.url, timeout=20, trust_env=False, verify=PLAIN)

    def requests(self, name: str, **query: Any) -> list[dict[str, Any]]:
        """What the inspector got under a name, the newest first."""
        headers = {"authorization": self.gateway.http.headers["authorization"]}
        answer = self.plain.get("/inspect", params={"name": name} | query, headers=headers)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["requests"]
        return found

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many requests came under a name."""
        found = eventually(
            lambda: requests if len(requests := self.requests(name)) >= count else None, what=f"{count} at {name}"
        )
        assert found is not None
        return found

    def deliver(self, target: str, body: Any) -> dict[str, Any]:
        """Hand over a delivery and wait for its end."""
        answer = self.gateway.http.post("/enqueue", json={"target": target, "body": body})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = self.gateway.http.get(f"/jobs/{answer.json()['job_id']}", params={"wait": "15"}).json()
        return job


StartDev = Callable[..., Dev]


@contextmanager
def starting_dev(folder: Path) -> Iterator[StartDev]:
    """What starts `toril dev` in a folder, with this text as its file, where `URL` is its own, until the block ends."""
    with ExitStack() as stack:

        def start(text: str = "", below: str = "") -> Dev:
            port = free_port()
            file = folder / "toril.yaml"
            file.write_text(text.replace("URL", f"http://127.0.0.1:{port}"))
            command = ("dev", "--data", str(folder / "data"), *(["--config", str(file)] if text else []))
            # The environment of a developer who has another Redis and another token lying around.
            env = {"REDIS_URL": None, "AUTH_TOKENS": None}
            log_path = folder / f"dev-{len(list(folder.iterdir()))}.log"
            process = TorilProcess("", log_path, env=env, command=command, port=port)
            stack.callback(process.close)
            process.start(f"{below}/ready")
            dev = Dev(process, file, below)
            stack.callback(dev.gateway.close)
            stack.callback(dev.plain.close)
            return dev

        yield start
