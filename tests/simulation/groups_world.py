"""The queues door where jobs have groups: with limits, on queues that several instances work on."""

from functools import partial
from typing import Any

from tests.simulation.grouped_store import GroupedStore, rates_kept
from tests.simulation.queue_store import Broken
from tests.simulation.queues_world import QueuesWorld
from tests.simulation.world import LOCK_S
from toril.bullmq.rules.groups import GroupLimits
from toril.core.group_limits import GroupDefault, GroupRate

_GROUPS = ("a", "b", "t/1", "t/2", None)


class GroupsWorld(QueuesWorld):
    """Queues whose jobs share the workers by group."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        plan = self.plan
        for queue in self.stores:
            default = GroupDefault(plan.choice((None, 1, 2)), plan.choice((None, GroupRate(2, 1000))))
            limits = {
                group: GroupLimits(
                    plan.choice((None, 1, 3)), plan.choice((None, GroupRate(1, 2000))), plan.choice((None, 3))
                )
                for group in ("a", "t/1")
            }
            self.stores[queue] = GroupedStore(
                queue, default, limits, now=self.now, lock_s=LOCK_S, mark=self.markers.mark
            )  # fmt: skip

    def add_jobs(self) -> list[tuple[float, Any]]:
        """Return when which jobs of which groups are added: more at once than a group may start."""
        events: list[tuple[float, Any]] = []
        for at_s, add in super().add_jobs():
            for number in range(self.plan.choice((1, 1, 3))):
                group = self.plan.choice(_GROUPS)
                opts = add.keywords["opts"] | ({} if group is None else {"group": {"id": group}})
                name = f"{add.args[0]}-{number}"
                events.append((at_s, partial(add.func, name, *add.args[1:], **(add.keywords | {"opts": opts}))))
        return events

    async def end(self) -> None:
        """Let all instances leave, and check that no slot is left, and that rates were kept."""
        await super().end()
        for store in self.stores.values():
            assert isinstance(store, GroupedStore)
            store._free()
            if store.slots or store.schedule.waiting():
                raise Broken(f"slots are left: {store.slots}, and these wait: {store.schedule.waiting()}")
            if not self.jumped_s and (groups := rates_kept(store)):
                raise Broken(f"groups started more than their rate allows: {groups}")
