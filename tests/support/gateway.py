"""toril's REST door as the tests use it: one short method per route, on top of a plain httpx client."""

import ssl
from typing import Any

import httpx

from tests.support.waiting import eventually

TOKEN = "test-token"
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For `verify=` of HTTP clients: without it each of them reads all certificate authorities, for 20 ms and nothing."""


def worker(queue: str, url: str, **more: Any) -> dict[str, Any]:
    """A worker document. ``method``, ``headers`` and ``timeout`` go to the endpoint, the rest to ``opts``."""
    endpoint = {"url": url, "method": more.pop("method", "POST")}
    endpoint |= {name: more.pop(name) for name in ("headers", "timeout") if name in more}
    return {"queue": queue, "endpoint": endpoint} | ({"opts": more} if more else {})


def job(data: Any = None, name: str = "work", **opts: Any) -> dict[str, Any]:
    """A job for ``POST /queues/{q}/jobs``; ``data`` defaults to an empty object."""
    return {"name": name, "data": {} if data is None else data} | ({"opts": opts} if opts else {})


class Gateway:
    """A caller with the API token. Methods fail on anything but the expected answer; ``http`` is bare."""

    def __init__(self, url: str, token: str | None = TOKEN) -> None:
        self.url = url
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False, verify=PLAIN)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def add(self, queue: str, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
        """Add jobs; their JSON as answered."""
        answer = self.http.post(f"/queues/{queue}/jobs", json=list(jobs))
        assert answer.status_code == 200, answer.text
        added: list[dict[str, Any]] = answer.json()
        assert len(added) == len(jobs)
        return added

    def add_one(self, queue: str, data: Any = None, name: str = "work", **opts: Any) -> str:
        """Add one job; its id."""
        job_id = self.add(queue, job(data, name, **opts))[0]["id"]
        assert isinstance(job_id, str)
        return job_id

    def job(self, queue: str, job_id: str) -> dict[str, Any]:
        """The JSON of one job, which must exist."""
        answer = self.http.get(f"/queues/{queue}/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def jobs(self, queue: str, **query: Any) -> dict[str, Any]:
        """A page of jobs: ``{counts, jobs, start, length}``."""
        answer = self.http.get(f"/queues/{queue}/jobs", params=query)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    def counts(self, queue: str) -> dict[str, int]:
        """How many jobs are in each state that the list route knows."""
        counts: dict[str, int] = self.jobs(queue, statuses="waiting,active,completed,failed,delayed")["counts"]
        return counts

    def exists(self, queue: str, job_id: str) -> bool:
        """Whether the job is still there."""
        return self.http.get(f"/queues/{queue}/jobs/{job_id}").status_code == 200

    def register(self, queue: str, url: str, **more: Any) -> None:
        """Register a worker (see :func:`worker` for where ``more`` goes)."""
        self.register_document(worker(queue, url, **more))

    def register_document(self, document: dict[str, Any]) -> None:
        """Register exactly this worker document."""
        answer = self.http.post("/workers", json=document)
        assert (answer.status_code, answer.text) == (200, "OK")

    def unregister(self, queue: str) -> None:
        """Delete a worker, which must exist."""
        answer = self.http.delete(f"/workers/{queue}")
        assert (answer.status_code, answer.text) == (200, "OK")

    def finished(self, queue: str, job_id: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The JSON of a job as soon as it has completed or failed for good."""

        def probe() -> dict[str, Any] | None:
            found = self.job(queue, job_id)
            return found if found.get("finishedOn") else None

        done = eventually(probe, timeout_s=timeout_s, what=f"job {job_id} of {queue} to finish")
        assert done is not None
        return done

    def wait_for_counts(self, queue: str, timeout_s: float = 30.0, **expected: int) -> None:
        """Wait until these states hold exactly so many jobs."""
        eventually(
            lambda: {state: self.counts(queue)[state] for state in expected} == expected,
            timeout_s=timeout_s,
            what=f"{expected} in {queue}",
        )

    def logs(self, queue: str, job_id: str, **query: Any) -> dict[str, Any]:
        """A page of a job's log: ``{logs, count}``."""
        answer = self.http.get(f"/queues/{queue}/jobs/{job_id}/logs", params=query)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page
