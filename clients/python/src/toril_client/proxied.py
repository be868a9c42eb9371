"""The jobs of toril's async proxy, by hand: submit a request, wait, fetch the upstream's answer, cancel."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx

from toril_client.calls import LONGEST_WAIT_S
from toril_client.errors import TorilError

SOURCE = "x-proxq-source"
_ENDED = ("completed", "failed")


@dataclass(frozen=True)
class ProxiedJob:
    """A proxied request: `queued`, `running`, `completed` (the upstream answered) or `failed` (`error` says why)."""

    id: str
    status: str
    error: str | None = None


class NotQueued(TorilError):
    """The request went past the queue; `response` is the upstream's answer."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__("the request went past the queue", "not_queued", response.status_code)
        self.response = response


class ProxyClient:
    """A caller of upstreams through their queues.

    `ProxqTransport` does the same behind an HTTP client that waits for each answer.

    Args:
        url: toril's, without the prefix of an upstream.
        headers: sent with every request: what the upstream asks for (`authorization`), also to see one's jobs where
            toril has `ownerOnly`.
        jobs_path: toril's `jobsPath`.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None, *, jobs_path: str = "/__jobs") -> None:
        self._http = httpx.Client(base_url=url, headers=headers, verify=not url.startswith("http://"))
        self._jobs = jobs_path.rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, method: str, path: str, **request: Any) -> str:
        """Send a request (`json`, `content`, `headers`, `params` as httpx has them) into its queue; its job's id.

        It is sent once: a second one would be a second job.

        Raises:
            NotQueued: toril passed it through; the error has the answer.
            TorilError: toril refused it, or cannot be reached.
        """
        response = self._send(method, path, **request)
        if SOURCE not in response.headers:
            raise NotQueued(response)
        if response.status_code != 202:
            raise _refusal(response)
        job_id: str = response.json()["jobId"]
        return job_id

    def get(self, job_id: str) -> ProxiedJob:
        """Return a job's status; raises `TorilError` with the status 404 where there is none."""
        return self._status(job_id, 0)

    def wait(self, job_id: str, wait_s: float = 30.0) -> ProxiedJob:
        """Return a job as soon as it has ended; raises `TimeoutError` when it takes longer."""
        until = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            job = self._status(job_id, left_s)
            if job.status in _ENDED:
                return job
            if time.monotonic() >= until:
                raise TimeoutError(f"proxied job {job_id} is {job.status} after {wait_s:g} s")

    def response(self, job_id: str) -> httpx.Response:
        """Return the upstream's answer, whatever its status; until there is one, a `TorilError` with the status 404."""
        response = self._send("GET", f"{self._path(job_id)}/content")
        if SOURCE in response.headers:
            raise _refusal(response)
        return response

    def cancel(self, job_id: str) -> None:
        """Cancel a job in any state and forget it; a running attempt is aborted."""
        response = self._send("DELETE", self._path(job_id))
        if response.status_code >= 400:
            raise _refusal(response)

    def _status(self, job_id: str, wait_s: float) -> ProxiedJob:
        whole_s = str(int(min(wait_s, LONGEST_WAIT_S)) + (0 < wait_s < LONGEST_WAIT_S))
        response = self._send("GET", self._path(job_id), params={"wait": whole_s})
        if response.status_code >= 400:
            raise _refusal(response)
        raw = response.json()
        return ProxiedJob(raw["id"], raw["status"], raw.get("error"))

    def _path(self, job_id: str) -> str:
        return f"{self._jobs}/{quote(job_id, safe='')}"

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, timeout=LONGEST_WAIT_S + 30, **request)
        except httpx.TransportError as exc:
            raise TorilError(f"toril cannot be reached: {exc}") from exc


def _refusal(response: httpx.Response) -> TorilError:
    try:
        raw = response.json()
        return TorilError(str(raw["message"]), str(raw["code"]).lower(), response.status_code)
    except (ValueError, KeyError, TypeError):
        return TorilError(response.text, f"http_{response.status_code}", response.status_code)
