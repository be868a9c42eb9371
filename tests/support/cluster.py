"""A Redis Cluster of real nodes, whose slots can be moved from one to another a step at a time."""

from collections.abc import Callable
from typing import Self

from tests.support.ports import free_port
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

SLOTS = 16384
StartValkey = Callable[..., ValkeyProcess]


def start_nodes(start_valkey: StartValkey, masters: int, empty: int = 0) -> list[ValkeyProcess]:
    """Start masters that share the slots evenly, then nodes without slots."""
    started = [
        start_valkey(config={"cluster-enabled": "yes", "cluster-node-timeout": 2000, "cluster-port": free_port()})
        for _ in range(masters + empty)
    ]
    clients = [node.client() for node in started]
    for number, client in enumerate(clients[:masters]):
        last = SLOTS * (number + 1) // masters - 1
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS * number // masters, last)
    for client, node in zip(clients[1:], started[1:], strict=True):
        bus = int(client.config_get("cluster-port")["cluster-port"])
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    for client in clients:
        eventually(lambda client=client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    eventually(lambda: all(len(client.execute_command("CLUSTER SLOTS")) == masters for client in clients))
    eventually(lambda: all(len(client.execute_command("CLUSTER NODES")) == len(clients) for client in clients))
    return started


def replicate(start_valkey: StartValkey, nodes: list[ValkeyProcess], number: int) -> ValkeyProcess:
    """Start a replica of a node, and wait until it has its data."""
    replica = start_valkey(config={"cluster-enabled": "yes", "cluster-node-timeout": 2000, "cluster-port": free_port()})
    client, master = replica.client(), nodes[number].client()
    client.execute_command(
        "CLUSTER", "MEET", "127.0.0.1", nodes[number].port, int(master.config_get("cluster-port")["cluster-port"])
    )
    node_id = master.execute_command("CLUSTER MYID")
    eventually(lambda: node_id in str(client.execute_command("CLUSTER NODES")))
    eventually(lambda: client.execute_command("CLUSTER", "REPLICATE", node_id))
    eventually(lambda: client.execute_command("ROLE")[3] == "connected")
    # The other masters elect it.
    for other in nodes:
        eventually(
            lambda other=other: f"127.0.0.1:{replica.port}" in str(other.client().execute_command("CLUSTER NODES"))
        )
    return replica


def home_of(slot: int, masters: int) -> int:
    """Return the number of the node that `start_nodes` gave this slot."""
    return next(number for number in range(masters) if slot < SLOTS * (number + 1) // masters)


class SlotMove:
    """One slot on its way, step by step as `redis-cli --cluster reshard` does it: begin, move keys, end."""

    def __init__(self, nodes: list[ValkeyProcess], slot: int, source: int, target: int) -> None:
        self._others = [node.client() for node in nodes]
        self._source, self._target = self._others[source], self._others[target]
        self._port = nodes[target].port
        self._slot = slot

    def begin(self) -> Self:
        """Declare the move; every key is still at the source."""
        source_id, target_id = (node.execute_command("CLUSTER MYID") for node in (self._source, self._target))
        self._target.execute_command("CLUSTER", "SETSLOT", self._slot, "IMPORTING", source_id)
        self._source.execute_command("CLUSTER", "SETSLOT", self._slot, "MIGRATING", target_id)
        return self

    def move(self, *keys: str) -> Self:
        """Move these keys, or all that are at the source now."""
        while some := list(keys) or self._source.execute_command("CLUSTER", "GETKEYSINSLOT", self._slot, 100):
            self._source.execute_command("MIGRATE", "127.0.0.1", self._port, "", 0, 5000, "KEYS", *some)
            if keys:
                break
        return self

    def end(self) -> Self:
        """Give the slot to the target, and tell every node."""
        target_id = self._target.execute_command("CLUSTER MYID")
        for node in (self._target, self._source, *self._others):
            node.execute_command("CLUSTER", "SETSLOT", self._slot, "NODE", target_id)
        return self

    def keys_left(self) -> list[str]:
        """The slot's keys that are still at the source."""
        left: list[str] = self._source.execute_command("CLUSTER", "GETKEYSINSLOT", self._slot, 1000)
        return left
