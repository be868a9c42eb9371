"""An S3-compatible server on loopback: moto's, in a separate process."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Self

import httpx

from tests.support.ports import free_port
from tests.support.waiting import eventually
from toril.payloads.obstore_blobs import BlobPatience, ObstoreBlobs, S3Access, open_blobs

_buckets = itertools.count(1)


class S3Server:
    """Runs as a context manager. Whatever credentials come are taken; buckets are made on demand."""

    def __init__(self, log_path: Path) -> None:
        self.port = 0
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # Another server of these tests may have taken the port meanwhile.
        for _ in range(3):
            self.port = free_port()
            with self._log_path.open("ab") as log:
                command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if eventually(self._state, timeout_s=60, what="moto's server") == "up":
                return self
        raise AssertionError(f"moto's server does not start:\n{self._log_path.read_text()}")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str | None]:
        """What a process needs to know to use it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
        }

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def make_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{next(_buckets)}"
        httpx.put(f"{self.url}/{name}", trust_env=False, timeout=30).raise_for_status()
        return name

    def keys(self, bucket: str) -> list[str]:
        """The names of all objects in a bucket (the first thousand)."""
        text = httpx.get(f"{self.url}/{bucket}?list-type=2", trust_env=False, timeout=30).raise_for_status().text
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]

    def blobs(self, bucket: str | None = None) -> ObstoreBlobs:
        """A store in this bucket, or in a new one."""
        patience = BlobPatience(connect_s=10, request_s=60, retries=0, retry_s=60)
        access = S3Access(self.url, "us-east-1", "someone", "something")
        return open_blobs(f"s3://{bucket or self.make_bucket()}/a/prefix", access, patience)

    def _state(self) -> str:
        assert self._process is not None
        if self._process.poll() is not None:
            return "ended"
        try:
            return "up" if httpx.get(f"{self.url}/moto-api/", trust_env=False, timeout=5).status_code == 200 else ""
        except httpx.TransportError:
            return ""
