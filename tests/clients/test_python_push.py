"""The Python client's pushed jobs, answered now or settled later, against a real toril."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.endpoint import Answer, Behaviour, Call, Endpoint, respond
from tests.support.gateway import TOKEN
from tests.support.toril import TorilProcess
from toril_client import (
    AsyncClient,
    AsyncPushedJob,
    Client,
    JobFailed,
    Policy,
    PushedJob,
    RetryIn,
    TorilError,
    Unrecoverable,
)
from toril_client import push as pushing

LONG_BACKOFF = {"type": "fixed", "delay": 600_000}


def as_sent(answer: pushing.Answer) -> Answer:
    """A helper's answer as a web server sends it."""
    status, headers, body = answer
    return respond(status, "Whatever", headers.items(), body)


def later(lease_s: float = 600) -> Behaviour:
    return lambda _: as_sent(PushedJob.later(lease_s))


def pushed(call: Call) -> PushedJob:
    return PushedJob.from_body(call.body)


def test_a_job_that_is_answered_with_later_is_completed_later(
    toril: TorilProcess, endpoint: Endpoint, queue: str
) -> None:
    endpoint.behaviour = later()
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000)
        first, second = client.add(queue, "n", 1), client.add(queue, "n", 2)
        (call,) = endpoint.wait_for_calls(1)
        pushed(call).extend(toril.url, 700)
        pushed(call).progress(toril.url, 50)
        pushed(call).log(toril.url, "half")
        pushed(call).complete(toril.url, {"pages": 3})
        assert client.result(queue, first.id) == {"pages": 3}
        assert (client.get(queue, first.id).progress, client.logs(queue, first.id)) == (50, ["half"])
        with pytest.raises(TorilError) as caught:
            pushed(call).complete(toril.url, "again")
        assert (caught.value.code, caught.value.status) == ("lease_lost", 409)
        pushed(endpoint.wait_for_calls(2)[1]).complete(toril.url)
        assert client.result(queue, second.id) is None


@pytest.mark.parametrize("early", [False, True], ids=["behind the answer", "before the answer"])
def test_a_job_may_be_settled_on_either_side_of_the_answer(
    toril: TorilProcess, endpoint: Endpoint, queue: str, early: bool
) -> None:
    def work(call: Call) -> Answer:
        if early:
            pushed(call).complete(toril.url, "done")
        return as_sent(PushedJob.later())

    endpoint.behaviour = work
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000)
        for number in (1, 2):  # the second one has the slot of the first
            job = client.add(queue, "n", number)
            call = endpoint.wait_for_calls(number)[-1]
            if not early:
                pushed(call).complete(toril.url, "done")
            assert client.result(queue, job.id) == "done"


def test_a_later_failure_decides_whether_and_when_the_job_is_retried(
    toril: TorilProcess, endpoint: Endpoint, queue: str
) -> None:
    endpoint.behaviour = later()
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000, concurrency=10)

        def failed_first(*why: str | Exception) -> tuple[str, list[str]]:
            """A job with two attempts, which fail for these reasons; its id, and the tokens that it had."""
            before = len(endpoint.calls)
            job = client.add(queue, "n", 1, attempts=2, backoff=LONG_BACKOFF)
            for number, reason in enumerate(why, 1):
                pushed(endpoint.wait_for_calls(before + number)[-1]).fail(toril.url, reason)
            return job.id, [call.token for call in endpoint.calls[before:]]

        hopeless, tokens = failed_first(Unrecoverable("no ink"))
        with pytest.raises(JobFailed, match="no ink"):
            client.result(queue, hopeless)
        assert len(tokens) == 1
        again, tokens = failed_first(RetryIn(0.01), ValueError())
        with pytest.raises(JobFailed, match="ValueError"):
            client.result(queue, again)
        assert len(set(tokens)) == 2
        waits, _ = failed_first("the job's own backoff")
        with pytest.raises(TimeoutError, match="is delayed"):
            client.result(queue, waits, 0)
        assert client.get(queue, waits).failed_reason == "the job's own backoff"


def test_a_job_that_is_given_back_is_pushed_again(toril: TorilProcess, endpoint: Endpoint, queue: str) -> None:
    endpoint.behaviour = later()
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000)
        job = client.add(queue, "n", 1, attempts=1)
        pushed(endpoint.wait_for_calls(1)[0]).release(toril.url)
        pushed(endpoint.wait_for_calls(2)[1]).complete(toril.url, "second")
        assert client.result(queue, job.id) == "second"
        assert client.get(queue, job.id).attempts_made == 1


async def test_the_async_pushed_job_settles_like_the_blocking_one(
    toril: TorilProcess, endpoint: Endpoint, queue: str
) -> None:
    async def work(call: Call) -> Answer:
        job = AsyncPushedJob.from_body(call.body)
        await job.extend(toril.url, 700)
        await job.progress(toril.url, 50)
        await job.log(toril.url, f"call {call.number}")
        match call.number:
            case 0:
                await job.release(toril.url)
            case 1:
                await job.fail(toril.url, RetryIn(0.01))
            case _:
                await job.complete(toril.url, "done")
        return as_sent(AsyncPushedJob.later())

    endpoint.behaviour = work
    async with AsyncClient(toril.url, TOKEN) as client:
        await client.register_worker(queue, endpoint.url, timeout_ms=20_000)
        job = await client.add(queue, "n", 1, attempts=2, backoff=LONG_BACKOFF)
        assert await client.result(queue, job.id) == "done"
        assert (await client.get(queue, job.id)).progress == 50
        assert await client.logs(queue, job.id) == ["call 0", "call 1", "call 2"]


def test_a_failing_answer_says_when_to_come_again(toril: TorilProcess, endpoint: Endpoint, queue: str) -> None:
    answers = [PushedJob.failure("busy", 503, retry_in_s=0.01), PushedJob.result("done")]
    endpoint.behaviour = lambda call: as_sent(answers[call.number])
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000)
        job = client.add(queue, "n", 1, attempts=2, backoff=LONG_BACKOFF)
        assert client.result(queue, job.id) == "done"


@pytest.mark.parametrize(
    ("policy", "status", "calls"),
    [
        (Policy(retry_on=[429, "5xx"]), 503, 2),
        (Policy(retry_on=[429, "5xx"]), 404, 1),
        (Policy(retry_on=[]), 503, 1),
        (Policy(fail_on=["4xx"]), 410, 1),
        (Policy(fail_on=[410], retry_after=True, max_retry_after_ms=1), 503, 2),
        (Policy(), 404, 2),
    ],
)
def test_a_policy_says_which_answers_are_final(
    toril: TorilProcess, endpoint: Endpoint, queue: str, policy: Policy, status: int, calls: int
) -> None:
    endpoint.behaviour = lambda _: respond(status, "No", [("retry-after", "600")])
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000, policy=policy)
        job = client.add(queue, "n", 1, attempts=2)
        with pytest.raises(JobFailed):
            client.result(queue, job.id)
    assert len(endpoint.calls) == calls


@pytest.mark.parametrize("bad", [Policy(retry_on=[200]), Policy(max_retry_after_ms=0)])
def test_a_policy_that_toril_does_not_take_is_refused(toril: TorilProcess, queue: str, bad: Policy) -> None:
    with Client(toril.url, TOKEN) as client, pytest.raises(TorilError) as caught:
        client.register_worker(queue, "http://127.0.0.1:4/x", policy=bad)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 400)


@pytest.mark.parametrize(
    "report",
    [
        lambda job, url: job.complete(url),
        lambda job, url: job.fail(url, "no"),
        lambda job, url: job.extend(url),
        lambda job, url: job.release(url),
    ],
)
def test_a_caller_that_never_had_the_job_settles_nothing(
    toril: TorilProcess, endpoint: Endpoint, queue: str, report: Callable[[PushedJob, str], Any]
) -> None:
    endpoint.behaviour = later()
    with Client(toril.url, TOKEN) as client:
        client.register_worker(queue, endpoint.url, timeout_ms=20_000)
        job = client.add(queue, "n", 1)
        mine = pushed(endpoint.wait_for_calls(1)[0])
        with pytest.raises(TorilError) as caught:
            report(PushedJob(mine.job, "made up", queue), toril.url)
        assert (caught.value.code, caught.value.status) == ("wrong_lock_token", 401)
        mine.complete(toril.url, 1)
        assert client.result(queue, job.id) == 1
