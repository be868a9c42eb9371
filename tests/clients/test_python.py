"""The Python client against a real toril on a real Valkey."""

import asyncio
import json
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conformance.servers import proxied
from tests.support.gateway import TOKEN, Gateway
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril_client import (
    AsyncClient,
    Client,
    JobFailed,
    NewJob,
    PushedJob,
    RetryIn,
    Task,
    TorilError,
    Unrecoverable,
    Worker,
)

Starting = Callable[..., Any]


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """Run a worker for the length of a block, and stop it behind it."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        await asyncio.wait_for(worker.connected.wait(), 10)
        yield worker
        await worker.stop()
        await asyncio.wait_for(running, 10)


async def test_a_worker_and_its_caller_see_500_jobs_through_to_their_results(toril: TorilProcess, queue: str) -> None:
    """500 jobs over a socket, ten at a time, with progress, a failing one, events, and results waited for."""
    most = running = 0
    together = asyncio.Event()  # the first ten jobs wait for one another: no matter of speed

    async def square(task: Task) -> dict[str, int]:
        nonlocal most, running
        running += 1
        most = max(most, running)
        if running == 10:
            together.set()
        try:
            await task.progress({"percent": 50})
            await task.log(f"squaring {task.data['n']}")
            await asyncio.wait_for(together.wait(), 20)
            if task.data["n"] == 13:
                raise ValueError("unlucky")
            return {"square": task.data["n"] ** 2}
        finally:
            running -= 1

    async with AsyncClient(toril.url, TOKEN) as client, asyncio.TaskGroup() as tasks:
        seen: Counter[str] = Counter()

        async def listen() -> None:
            async for event in client.events(queue, since="0"):
                seen[event.name] += 1
                if seen["completed"] == 499 and seen["failed"] == 1:
                    return

        listening = tasks.create_task(listen())
        jobs = await client.add_bulk(queue, [NewJob("square", {"n": number}) for number in range(500)])
        async with working(client.worker(queue, square, concurrency=10)):
            for number, job in enumerate(jobs):
                if number == 13:
                    with pytest.raises(JobFailed) as caught:
                        await client.result(queue, job.id)
                    assert (caught.value.message, caught.value.code) == ("unlucky", "job_failed")
                else:
                    assert await client.result(queue, job.id) == {"square": number**2}
            await asyncio.wait_for(listening, 20)
        assert most == 10
        assert seen["progress"] == 500
        job = await client.get(queue, jobs[13].id)
        assert job.failed_reason == "unlucky"
        assert "ValueError: unlucky" in job.raw["stacktrace"][0]
        assert await client.logs(queue, jobs[7].id) == ["squaring 7"]
        assert (await client.counts(queue))["completed"] == 499


async def test_a_server_restart_in_the_middle_of_2000_jobs(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> None:
    """Workers connect again by themselves, and every job completes exactly once."""
    store = start_valkey()
    toril = await asyncio.to_thread(start_toril, store)
    done: Counter[int] = Counter()
    reached = asyncio.Event()

    async def count(task: Task) -> int:
        await asyncio.sleep(0.005)
        done[task.data] += 1
        if len(done) >= 500:
            reached.set()
        return int(task.data)

    async with AsyncClient(toril.url, TOKEN) as client:
        jobs = await client.add_bulk("orders", [NewJob("n", number) for number in range(2000)])
        workers = [client.worker("orders", count, concurrency=10) for _ in range(4)]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(worker.run()) for worker in workers]
            await asyncio.wait_for(reached.wait(), 30)
            ended = await asyncio.to_thread(toril.terminate)
            assert ended.code == 0
            assert len(done) < 2000, "it was in the middle"
            await asyncio.to_thread(toril.start)
            assert [await client.result("orders", job.id, 60) for job in jobs] == list(range(2000))
            for worker in workers:
                await worker.stop()
            await asyncio.wait_for(asyncio.gather(*running), 10)
        assert set(done.values()) == {1}
        assert len(done) == 2000
        assert (await client.counts("orders"))["failed"] == 0


async def test_a_worker_decides_whether_and_when_a_job_is_retried(toril: TorilProcess, queue: str) -> None:
    calls: Counter[str] = Counter()

    async def work(task: Task) -> object:
        calls[task.data] += 1
        if task.data == "hopeless":
            raise Unrecoverable("no such card")
        if task.data == "later" and calls["later"] == 1:
            raise RetryIn(0.05)
        return object() if task.data == "odd" else None

    async with AsyncClient(toril.url, TOKEN) as client, working(client.worker(queue, work)):
        backoff = {"type": "fixed", "delay": 60_000}
        hopeless = await client.add(queue, "n", "hopeless", attempts=5, backoff=backoff)
        with pytest.raises(JobFailed, match="no such card"):
            await client.result(queue, hopeless.id)
        later = await client.add(queue, "n", "later", attempts=2, backoff=backoff)
        assert await client.result(queue, later.id) is None
        odd = await client.add(queue, "n", "odd")
        with pytest.raises(JobFailed, match="not JSON serializable"):
            await client.result(queue, odd.id)
        assert calls == {"hopeless": 1, "later": 2, "odd": 1}


async def test_a_result_that_is_too_large_fails_the_job(toril: TorilProcess, queue: str) -> None:
    """Once, and with a reason: the server would close the socket, and the job would come back for ever."""
    calls = 0

    async def work(task: Task) -> str:
        nonlocal calls
        calls += 1
        return "x" * 11_000_000

    async with AsyncClient(toril.url, TOKEN) as client, working(client.worker(queue, work)):
        job = await client.add(queue, "n", 1, attempts=3)
        with pytest.raises(JobFailed, match=r"the result is 110000\d\d bytes of JSON, more than 10485760"):
            await client.result(queue, job.id)
        assert calls == 1


async def test_events_from_now_on_survive_a_restart_before_the_first(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> None:
    store = start_valkey()
    toril = await asyncio.to_thread(start_toril, store)
    async with AsyncClient(toril.url, TOKEN) as client:
        seen: asyncio.Queue[str] = asyncio.Queue()

        async def listen() -> None:
            async for event in client.events("orders"):
                seen.put_nowait(event.name)
                if event.name == "waiting":
                    return

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            await asyncio.sleep(0.5)  # there is nothing to see of a listener that has heard nothing
            await asyncio.to_thread(toril.terminate)
            with store.client() as redis:
                redis.xadd("bull:orders:events", {"event": "added", "jobId": "1"})
            await asyncio.to_thread(toril.start)
            await client.add("orders", "n", 1)
        assert [seen.get_nowait() for _ in range(3)] == ["added", "added", "waiting"]


async def test_a_plain_function_works_in_a_thread(toril: TorilProcess, queue: str) -> None:
    threads = set()

    def work(task: Task) -> str:
        threads.add(threading.current_thread())
        return f"hello {task.data}"

    async with AsyncClient(toril.url, TOKEN) as client, working(client.worker(queue, work)):
        job = await client.add(queue, "greet", "you")
        assert await client.result(queue, job.id) == "hello you"
    assert threading.main_thread() not in threads


async def test_a_decorated_function_is_a_worker(toril: TorilProcess, queue: str) -> None:
    with Client(toril.url, TOKEN) as blocking:

        @blocking.worker(queue, concurrency=2)
        async def double(task: Task) -> int:
            return int(task.data) * 2

        async with AsyncClient(toril.url, TOKEN) as client, working(double):
            job = await client.add(queue, "n", 21)
            assert await client.result(queue, job.id) == 42


async def test_a_worker_of_a_server_that_ends_finishes_and_goes_on_with_another(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> None:
    """Both stand behind one address, as behind a load balancer."""
    store = start_valkey()
    ending, staying = [await asyncio.to_thread(start_toril, store) for _ in range(2)]
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(task: Task) -> str:
        begun.set()
        await go_on.wait()
        return f"{task.data} done"

    async with proxied("127.0.0.1", ending.port) as balancer, AsyncClient(staying.url, TOKEN) as client:
        worker = Worker(f"http://127.0.0.1:{balancer.port}", TOKEN, "orders", work)
        async with working(worker):
            first = await client.add("orders", "n", "first", attempts=1)
            await asyncio.wait_for(begun.wait(), 20)
            balancer.send_to(staying.port)
            ending.send(signal.SIGTERM)
            await asyncio.to_thread(eventually, lambda: ending.status("/ready") != 200)
            second = await client.add("orders", "n", "second")
            go_on.set()
            assert await client.result("orders", first.id) == "first done"
            assert await client.result("orders", second.id) == "second done"
            assert (await asyncio.to_thread(ending.wait)).code == 0
        assert (await client.get("orders", first.id)).attempts_made == 1


async def test_a_worker_that_is_refused_says_why(toril: TorilProcess, queue: str) -> None:
    for token, name, code in (("wrong", queue, "unauthorized"), (TOKEN, "ab", "invalid_request")):
        with pytest.raises(TorilError) as caught:
            await asyncio.wait_for(Worker(toril.url, token, name, print).run(), 10)
        assert caught.value.code == code


async def test_stopping_finishes_the_job_at_hand_and_takes_no_other(toril: TorilProcess, queue: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(task: Task) -> str:
        begun.set()
        await go_on.wait()
        return "done"

    async with AsyncClient(toril.url, TOKEN) as client:
        first, second = await client.add_bulk(queue, [NewJob("n", 1), NewJob("n", 2)])
        worker = client.worker(queue, work)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(worker.run())
            await asyncio.wait_for(begun.wait(), 10)
            await worker.stop()
            go_on.set()
            await asyncio.wait_for(running, 10)
        assert await client.result(queue, first.id) == "done"
        with pytest.raises(TimeoutError, match="is waiting after 0 s"):
            await client.result(queue, second.id, 0)


def test_the_blocking_client_does_what_the_async_client_does(toril: TorilProcess, queue: str) -> None:
    with Client(toril.url, TOKEN) as client:
        job = client.add(queue, "n", {"a": 1}, delay=60_000)
        assert client.get(queue, job.id).data == {"a": 1}
        client.add_bulk(queue, [NewJob("n", number) for number in range(3)])
        assert [job.data for job in client.jobs(queue, ["waiting"])] == [2, 1, 0]
        assert client.counts(queue) == {
            "waiting": 3, "paused": 0, "active": 0, "completed": 0, "failed": 0, "delayed": 1
        }  # fmt: skip
        with pytest.raises(TimeoutError, match=r"is delayed after 0\.1 s"):
            client.result(queue, job.id, 0.1)
        events = client.events(queue, since="0")
        assert next(events).name == "added"
        events.close()
        client.register_worker(queue, "http://127.0.0.1:4/x", timeout_ms=100, concurrency=2)
        assert client.workers()[queue] == "http://127.0.0.1:4/x"
        client.unregister_worker(queue)
        assert queue not in client.workers()


@pytest.mark.parametrize(
    ("ask", "code", "status"),
    [
        (lambda client: client.get("orders", "404"), "job_not_found", 404),
        (lambda client: client.get("ab", "1"), "invalid_request", 400),
        (lambda client: client.add("orders", "", 1), "invalid_request", 400),
        (lambda client: client.unregister_worker("nobody"), "worker_not_found", 404),
        (lambda client: next(client.events("ab")), "invalid_request", 400),
    ],
)
def test_errors_carry_the_servers_code(
    toril: TorilProcess, ask: Callable[[Client], Any], code: str, status: int
) -> None:
    with Client(toril.url, TOKEN) as client, pytest.raises(TorilError) as caught:
        ask(client)
    assert (caught.value.code, caught.value.status) == (code, status)
    with Client(toril.url, "wrong") as stranger, pytest.raises(TorilError) as refused:
        ask(stranger)
    assert refused.value.code == "unauthorized"


def test_an_unreachable_server_is_retried_and_then_named_in_the_error(unused_tcp_port: int) -> None:
    with Client(f"http://127.0.0.1:{unused_tcp_port}", "x") as client, pytest.raises(TorilError) as caught:
        client.add("orders", "n", 1)
    assert (caught.value.code, caught.value.status) == ("unreachable", 0)


def test_repeating_an_add_does_not_duplicate(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> None:
    """Redis freezes after it got the command: the answer is 503, the job may be there, and the client repeats."""
    store = start_valkey()
    toril = start_toril(store, env={"TORIL_REDIS_COMMAND_TIMEOUT": "500ms"})
    with Client(toril.url, TOKEN) as client:
        client.add("orders", "first", 1)
        store.pause()
        thawing = threading.Timer(2.0, store.resume)
        thawing.start()
        job = client.add("orders", "second", 2)
        thawing.join()
        assert client.get("orders", job.id).data == 2
        assert client.counts("orders")["waiting"] == 2


def test_a_pushed_job_is_read_and_answered(toril: TorilProcess, gateway: Gateway, queue: str) -> None:
    with Client(toril.url, TOKEN) as client:
        job = client.add(queue, "n", {"a": 1})
    from tests.support.sockets import socket_to  # noqa: PLC0415

    with socket_to(toril.url, f"/ws/queues/{queue}/process/1?payload=job") as worker:
        (message,) = worker.jobs(1)
        pushed = PushedJob.from_body(json.dumps(message["data"]["payload"]).encode())
        assert (pushed.job.id, pushed.job.data, pushed.queue) == (job.id, {"a": 1}, queue)
        pushed.progress(toril.url, 50)
        pushed.log(toril.url, "half")
        worker.finish(message)
    assert gateway.finished(queue, job.id)["progress"] == 50
    assert gateway.logs(queue, job.id)["logs"] == ["half"]
    assert PushedJob.result({"ok": 1}) == (200, {"content-type": "application/json"}, b'{"ok": 1}')
    assert PushedJob.failure("no")[0] == 500
    for body in (b"", b"[]", b"{}", b'{"job": {}, "token": 1}', b"\xff"):
        with pytest.raises(TorilError) as caught:
            PushedJob.from_body(body)
        assert caught.value.code == "invalid_request"
