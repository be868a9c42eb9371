"""Node BullMQ with `bullmq-otel` on the other side: its spans and toril's are in one trace, both ways."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compat.conftest import installed
from tests.support.endpoint import Endpoint
from tests.support.otlp import OtlpReceiver
from tests.support.toril import StartToril
from tests.support.valkey import ValkeyProcess

FOLDER = Path(__file__).parent / "node-otel"
pytestmark = pytest.mark.node


def test_a_trace_goes_from_toril_to_node_and_from_node_to_an_endpoint(
    valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint, new_queue: Callable[[], str]
) -> None:
    folder, (to_node, from_node) = installed(FOLDER), (new_queue(), new_queue())
    with OtlpReceiver() as receiver:
        env = {"QUEUE_PREFIX": "traces-n", "WORKER_METADATA_KEY": "traces-nw", "WORKER_METADATA_STREAM": "traces-ns"}
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        toril = start_toril(valkey, env=env)
        toril.gateway.add_one(to_node)
        toril.gateway.register(from_node, endpoint.url)
        command = ["node", "roundtrip.mjs", valkey.url, receiver.url, "traces-n", to_node, from_node]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        toril.gateway.finished(from_node, json.loads(done.stdout)["added"])

        (send,) = receiver.named(f"send {to_node}")
        (theirs,) = [one for one in receiver.below(send) if one.service == "node"]
        assert (theirs.kind, theirs.trace) == ("consumer", send.trace)
        (process,) = receiver.named(f"process {from_node}")
        (added,) = [one for one in receiver.spans if one.span == process.parent]
        assert (added.service, added.kind, added.trace) == ("node", "producer", process.trace)
        (client,) = receiver.below(process, "POST")
        header = endpoint.calls[-1].header("traceparent")
        assert header is not None
        assert header.split("-")[1:3] == [added.trace, client.span]
