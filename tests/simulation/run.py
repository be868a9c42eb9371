"""Runs a world from its seed, and tells how to repeat what broke."""

import traceback
import warnings
from typing import Any

from tests.simulation.deliveries_world import DeliveriesWorld
from tests.simulation.groups_world import GroupsWorld
from tests.simulation.proxy.world import ProxyWorld
from tests.simulation.queue_store import Broken
from tests.simulation.queues_world import QueuesWorld
from tests.simulation.sockets.world import SocketsWorld
from tests.simulation.virtual_loop import OWNER, run_virtually
from tests.simulation.workflows.world import WorkflowsWorld
from tests.simulation.world import Trace, World, simulated_insides

WORLDS: dict[str, type[World[Any]]] = {
    "deliveries": DeliveriesWorld,
    "groups": GroupsWorld,
    "proxy": ProxyWorld,
    "queues": QueuesWorld,
    "sockets": SocketsWorld,
    "workflows": WorkflowsWorld,
}


class Found(AssertionError):
    """A seed whose run broke something."""

    def __init__(self, door: str, seed: int, why: BaseException, trace: Trace) -> None:
        super().__init__(
            f"{why}\n  repeat it with: python -m tests.simulation --door {door} --seed {seed} --trace\n{trace.text(40)}"
        )
        self.why = why
        self.trace = trace


def simulate(door: str, seed: int) -> Trace:
    """Live through the world of a seed. Raises `Found`."""
    worlds: list[World[Any]] = []

    def logged(method: str, event: dict[str, Any]) -> None:
        world, owner = worlds[0], OWNER.get()
        if owner is not None and not owner.alive:
            return  # what happens in a process after its end does not matter
        world.note("log", method, event.get("event"), event.get("job_id", ""), event.get("error", ""))
        if event.get("exc_info"):
            world.breaks(Broken(f"{event.get('event')}: an exception that nothing expects"))
            world.note(*_traceback())

    async def live() -> None:
        worlds.append(WORLDS[door](seed))
        try:
            await worlds[0].run()
        finally:
            worlds[0].stop()

    try:
        with simulated_insides(logged), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            run_virtually(live())
    except Exception as exc:
        raise Found(door, seed, exc, worlds[0].trace if worlds else Trace()) from exc
    return worlds[0].trace


def _traceback() -> list[str]:
    return traceback.format_exc().splitlines()


__all__ = ["WORLDS", "Found", "simulate"]
