"""The ceilings of the benchmarks do what toril is compared with: else it would be behind, or ahead, of nothing."""

import json
import uuid
from contextlib import ExitStack

import httpx
import pytest
from benchmarks import payload
from benchmarks.servers import start_jobs, start_relay
from benchmarks.streams import StreamServer

from tests.support.valkey import ValkeyProcess


@pytest.mark.parametrize("options", [(), ("--starlette",)], ids=["bare", "starlette"])
def test_jobs_are_added_read_and_kept_as_bullmq_stores_them(valkey: ValkeyProcess, options: tuple[str, ...]) -> None:
    queue = f"ceiling-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        server = start_jobs(stack, "ceiling", f"redis://127.0.0.1:{valkey.port}/0", *options)
        answers = [httpx.post(f"{server.url}/queues/{queue}/jobs", content=payload.jobs(1)).json()[0] for _ in range(2)]
        read = httpx.get(f"{server.url}/queues/{queue}/jobs/{answers[0]['id']}")
        accepted = httpx.post(f"{server.url}/queued/x", content=payload.jobs(1), headers={"x-tenant": "one"})
    assert answers[0] == read.json()
    assert answers[0].keys() == json.loads(payload.job_answer()).keys()
    assert answers[0]["data"] == payload.DATA
    client = valkey.client(db=0)
    assert client.lrange(f"bull:{queue}:wait", 0, -1) == [answer["id"] for answer in reversed(answers)]
    assert accepted.status_code == 202
    kept = json.loads(client.hget(f"bull:requests:{accepted.json()['jobId']}", "data"))
    assert (kept["path"], kept["body"].encode()) == ("/queued/x", payload.jobs(1))
    assert ["x-tenant", "one"] in kept["headers"]


def test_a_relay_passes_bytes_both_ways_however_many() -> None:
    with ExitStack() as stack:
        streams = StreamServer()
        stack.callback(streams.stop)
        relay = start_relay(stack, "relay", streams.port)
        assert len(httpx.get(f"{relay.url}/{20 * 2**20}").content) == 20 * 2**20
        assert httpx.post(f"{relay.url}/", content=bytes(20 * 2**20)).text == "ok"
