"""A Redis Cluster: how queues spread over its nodes, and what adds cost toril and the busiest node."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from redis.crc import key_slot
from tests.support.cluster import home_of, start_nodes
from tests.support.valkey import ValkeyProcess

from benchmarks import payload
from benchmarks.growing import TOKEN, Figures, Options, Steps, add, load, median_of_each
from benchmarks.interleaved import cpu_us
from benchmarks.servers import TORIL, start_target
from benchmarks.target import Target

_NODES = (1, 3)
_QUEUES = 300
_CONNECTIONS = 32
_IN_CLUSTER = (
    "env REDIS_CLUSTER=true WORKER_METADATA_KEY={{bmqp}}:w:meta WORKER_METADATA_STREAM={{bmqp}}:w:stream " + TORIL
)


def cluster(options: Options) -> Steps:
    """Adds to 300 queues in turn, in a cluster of one node and in one of three; toril is one process.

    On few cores toril is the limit, so the rate hardly grows. What the busiest node has to do for an add says how much
    more the nodes would take: with three of them about a third, and as much more of an add can be served.
    """
    queues = [f"{{cluster-{number}}}" for number in range(_QUEUES)]
    requests = [add(quote(queue, safe=""), payload.jobs(1)) for queue in queues]
    seen: dict[str, list[Figures]] = {}
    with ExitStack() as stack:
        clusters = {count: _Cluster(stack, count) for count in _NODES}
        spread = {count: _spread(queues, count) for count in _NODES}
        for one in clusters.values():
            load(one.toril, requests, _CONNECTIONS, 0, 1.0)
        for _ in range(options.rounds):
            for count, one in clusters.items():
                figures = one.measured(requests, options.seconds) | spread[count]
                seen.setdefault(f"{count} node{'s' if count > 1 else ''}", []).append(figures)
    return median_of_each(seen)


def _spread(queues: Sequence[str], masters: int) -> Figures:
    """Return how many queues the nodes have, at least and at most."""
    homes = Counter(home_of(key_slot(f"bull:{queue}:".encode()), masters) for queue in queues)
    return {"queues at least": float(min(homes.values())), "queues at most": float(max(homes.values()))}


class _Cluster:
    """Masters that share the slots evenly, and a toril on them."""

    def __init__(self, stack: ExitStack, masters: int) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(config: dict[str, Any]) -> ValkeyProcess:
            at = folder / str(len(list(folder.iterdir())))
            return stack.enter_context(ValkeyProcess(at, config={"save": "", **config}))

        self._nodes = start_nodes(start, masters)
        self.toril: Target = start_target(stack, "toril", _IN_CLUSTER, self._nodes[0].url, TOKEN)

    def measured(self, requests: list[bytes], seconds: float) -> Figures:
        """Return what adds cost, and leave the store empty."""
        pid = self.toril.pid or 0
        before = [cpu_us(pid), *(cpu_us(node.pid) for node in self._nodes)]
        found = load(self.toril, requests, _CONNECTIONS, 0, seconds)
        after = [cpu_us(pid), *(cpu_us(node.pid) for node in self._nodes)]
        mine, *of_nodes = ((now - then) / max(1, found.answered) for now, then in zip(after, before, strict=True))
        for node in self._nodes:
            node.client().flushall()
        return {
            "µs of CPU each": mine,
            "adds/s": found.answered / found.seconds,
            "µs of the busiest node an add": max(of_nodes),
            "µs of all nodes an add": sum(of_nodes),
        }
