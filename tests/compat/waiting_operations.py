"""Everything toril does that makes a job wait, each as a generator: up to its `yield` the queue is not paused yet."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import uuid4

from msgspec import Raw

from tests.conformance.worlds import RealWorld, announcements_of, control_of
from toril.bullmq.cancelling import Cancelling
from toril.bullmq.control import Control
from toril.bullmq.flows import Flows
from toril.bullmq.inspector import Inspector
from toril.bullmq.job_actions import JobActions
from toril.bullmq.maintenance import Maintenance
from toril.bullmq.rules.actions import RetryJob
from toril.bullmq.rules.flow import AddedJob, FlowJob
from toril.bullmq.rules.job import JobOptions
from toril.bullmq.rules.scheduler import SchedulerSpec, Template
from toril.core.lease import Lease
from toril.core.verdict import Complete, Fail, Retry, Snooze
from toril.engine.ports import LeaseStore

Operation = Callable[[RealWorld], AsyncGenerator[None]]
OPERATIONS: dict[str, Operation] = {}
_FAILED = Fail("no", "at a")


def operation(made: Operation) -> Operation:
    """Take it into the list."""
    OPERATIONS[made.__name__] = made
    return made


def of_child(act: Callable[[RealWorld, AddedJob], Awaitable[object]], **opts: bool) -> Operation:
    """A parent that waits for one child, in another queue, until something is done with the child."""

    async def run(world: RealWorld) -> AsyncGenerator[None]:
        child = FlowJob("child", f"{world.queue}-children", Raw(b"{}"), JobOptions(**opts))
        flow = FlowJob("parent", world.queue, children=[child]).identified(lambda: str(uuid4()))
        (parent,) = await flows(world).add([flow], int(world.now() * 1000))
        yield
        await act(world, parent.children[0])

    return run


def flows(world: RealWorld) -> Flows:
    return Flows(world.scripts, world.producer, Inspector(world.scripts, "bull"), actions(world), "bull")


def actions(world: RealWorld) -> JobActions:
    return JobActions(world.scripts, "bull", world.now)


def control(world: RealWorld) -> Control:
    return control_of(world)


def cancelling(world: RealWorld) -> Cancelling:
    return Cancelling(world.scripts, "bull", announcements_of(world))


async def taken(store: LeaseStore) -> Lease:
    """The next job."""
    lease = await store.take(b"token")
    assert isinstance(lease, Lease)
    return lease


async def of_children(world: RealWorld) -> tuple[LeaseStore, Lease]:
    """The child, leased, and the store of its queue."""
    store = RealWorld(world.link, world.scripts, f"{world.queue}-children").store
    return store, await taken(store)


@operation
async def adding(world: RealWorld) -> AsyncGenerator[None]:
    yield
    await world.add("job")


@operation
async def adding_in_front(world: RealWorld) -> AsyncGenerator[None]:
    yield
    await world.add("job", opts={"lifo": True})


@operation
async def adding_a_flow(world: RealWorld) -> AsyncGenerator[None]:
    yield
    child = FlowJob("child", world.queue, Raw(b"{}"))
    flow = FlowJob("parent", f"{world.queue}-parents", children=[child, child]).identified(lambda: str(uuid4()))
    await flows(world).add([flow], int(world.now() * 1000))


@operation
async def adding_again_a_child_that_is_done(world: RealWorld) -> AsyncGenerator[None]:
    children = RealWorld(world.link, world.scripts, f"{world.queue}-children")
    await children.add("child")
    await children.store.complete(await taken(children.store), Complete(b"1"), fetch_next=False)
    yield
    child = FlowJob("child", children.queue, Raw(b"{}"), JobOptions(jobId="child"))
    await flows(world).add(
        [FlowJob("parent", world.queue, children=[child]).identified(lambda: str(uuid4()))], int(world.now() * 1000)
    )


@operation
async def retrying_at_once(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", opts={"attempts": 2})
    lease = await taken(world.store)
    yield
    await world.store.retry(lease, Retry(0, "no", "at a"), fetch_next=False)


@operation
async def retrying_later(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", opts={"attempts": 2})
    lease = await taken(world.store)
    yield
    await world.store.retry(lease, Retry(1000, "no", "at a"), fetch_next=False)
    await world.pass_time(2)
    await world.store.take(b"other")


@operation
async def a_snooze_that_finds_a_due_job(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", opts={"attempts": 2})
    lease = await taken(world.store)
    await world.add("due", delay_s=1)
    yield
    await world.pass_time(2)
    await world.store.snooze(lease, Snooze(600_000, "later"), fetch_next=True)


@operation
async def a_retry_that_finds_a_due_job(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", opts={"attempts": 2})
    lease = await taken(world.store)
    await world.add("due", delay_s=1)
    yield
    await world.pass_time(2)
    await world.store.retry(lease, Retry(0, "no", "at a"), fetch_next=False)


@operation
async def a_completed_job_that_finds_a_due_one(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job")
    lease = await taken(world.store)
    await world.add("due", delay_s=1)
    yield
    await world.pass_time(2)
    await world.store.complete(lease, Complete(b"1"), fetch_next=True)


@operation
async def a_completed_job_behind_which_another_was_asked_for(world: RealWorld) -> AsyncGenerator[None]:
    """As Node's `keepLastIfActive` leaves it."""
    await world.add("job", opts={"deduplication": {"id": "one"}})
    lease = await taken(world.store)
    kept = ("name", "job", "data", "{}", "opts", "{}", "jid", "next")
    await world.link.call("HSET", world.keys.key("dn:one"), *kept)
    yield
    await world.store.complete(lease, Complete(b"1"), fetch_next=False)


@operation
async def a_delayed_job_that_is_due(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", delay_s=1)
    yield
    await world.pass_time(2)
    await world.store.take(b"token")


@operation
async def releasing(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job")
    lease = await taken(world.store)
    yield
    await world.store.release(lease)


@operation
async def a_lapsed_lease(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job")
    await taken(world.store)
    await world.store.recover_stalled()
    await world.lapse(b"job")
    yield
    await world.pass_time(1)
    assert await world.store.recover_stalled() == [b"job"]


@operation
async def promoting_a_job(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", delay_s=600)
    yield
    await actions(world).promote(world.queue, "job")


@operation
async def promoting_all_jobs(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", delay_s=600)
    await world.add("other", delay_s=600)
    yield
    assert await control(world).promote(world.queue, None) == 2


@operation
async def retrying_a_failed_job(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job")
    await world.store.fail(await taken(world.store), _FAILED, fetch_next=False)
    yield
    await actions(world).retry(world.queue, "job", RetryJob())


@operation
async def retrying_all_completed_jobs(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job")
    await world.store.complete(await taken(world.store), Complete(b"1"), fetch_next=False)
    yield
    assert await control(world).retry(world.queue, "completed", None, None) == 1


@operation
async def taking_a_jobs_priority_away(world: RealWorld) -> AsyncGenerator[None]:
    await world.add("job", opts={"priority": 7})
    yield
    await actions(world).change_priority(world.queue, "job", 0, lifo=False)


@operation
async def setting_a_scheduler(world: RealWorld) -> AsyncGenerator[None]:
    yield
    spec = SchedulerSpec(every=600_000, template=Template())
    await world.book.schedulers.put(world.queue, "often", spec)


@operation
async def setting_a_scheduler_again(world: RealWorld) -> AsyncGenerator[None]:
    await world.book.schedulers.put(world.queue, "often", SchedulerSpec(every=600_000, template=Template()))
    yield
    spec = SchedulerSpec(every=600_000, template=Template(data=Raw(b"2")))
    await world.book.schedulers.put(world.queue, "often", spec)


async def _complete(world: RealWorld, child: AddedJob) -> None:
    store, lease = await of_children(world)
    await store.complete(lease, Complete(b"1"), fetch_next=False)


async def _fail(world: RealWorld, child: AddedJob) -> None:
    store, lease = await of_children(world)
    await store.fail(lease, _FAILED, fetch_next=False)


OPERATIONS |= {
    "a_child_that_completes": of_child(_complete),
    "a_child_whose_failure_is_ignored": of_child(_fail, ignoreDependencyOnFailure=True),
    "a_child_that_is_dropped_when_it_fails": of_child(_fail, removeDependencyOnFailure=True),
    "a_child_that_fails_its_parent": of_child(_fail, failParentOnFailure=True),
    "a_child_that_lets_its_parent_go_on": of_child(_fail, continueParentOnFailure=True),
    "removing_a_child": of_child(
        lambda world, child: actions(world).remove(child.job.queueName, child.id, children=True)
    ),
    "cancelling_a_child": of_child(lambda world, child: cancelling(world).cancel(child.job.queueName, child.id)),
    "detaching_a_child": of_child(
        lambda world, child: Maintenance(world.scripts, "bull").detach(child.job.queueName, child.id)
    ),
    "removing_all_children": of_child(
        lambda world, child: Maintenance(world.scripts, "bull").remove_children(world.queue, child.parent.id)  # type: ignore[union-attr]
    ),
    "draining_the_childrens_queue": of_child(
        lambda world, child: control(world).drain(child.job.queueName, delayed=False)
    ),
    "cleaning_the_childrens_queue": of_child(
        lambda world, child: control(world).clean(child.job.queueName, "wait", -1000, 0)
    ),
    "obliterating_the_childrens_queue": of_child(
        lambda world, child: control(world).obliterate(child.job.queueName, force=True)
    ),
}
