"""The Python client at all doors of a real toril: searches, many jobs at once, deliveries, targets, proxied jobs."""

from collections.abc import Iterator

import httpx
import pytest

from tests.clients.doors import REFUSING, SILENT, TAKING, Doors
from tests.support.gateway import TOKEN
from tests.support.waiting import eventually
from toril_client import AsyncClient, Client, GroupLimits, NewJob, NotQueued, ProxiedJob, ProxyClient, TorilError

LATER = 3_600_000


@pytest.fixture
def client(doors: Doors) -> Iterator[Client]:
    with Client(doors.toril.url, TOKEN) as client:
        yield client


def test_jobs_are_searched_and_changed_many_at_once(client: Client, queue: str) -> None:
    jobs = client.add_bulk(queue, [NewJob("n", {"of": n % 3}, {"delay": LATER}) for n in range(120)])
    found = list(client.search(queue, "data.of = 1", states=["delayed"]))
    assert {job.id for job in found} == {job.id for n, job in enumerate(jobs) if n % 3 == 1}
    assert len(found) == 40
    tried = client.bulk(queue, "promote", where="data.of = 1", states=["delayed"], dry_run=True)
    assert (tried.matched, tried.done, client.counts(queue)["waiting"]) == (40, 40, 0)
    done = client.bulk(queue, "promote", where="data.of = 1", states=["delayed"])
    assert (done.matched, done.done, done.refused, client.counts(queue)["waiting"]) == (40, 40, 0, 40)
    refused = client.bulk(queue, "retry", ids=(job.id for job in jobs[:2]))
    assert (refused.refused, refused.failed[0]["code"]) == (2, "wrong_state")
    with pytest.raises(TorilError) as caught:
        list(client.search(queue, "data.of ="))
    assert caught.value.code == "invalid_where"


def test_a_job_and_its_queue_are_changed(client: Client, doors: Doors, queue: str) -> None:
    job = client.add(queue, "n", 1, delay=LATER)
    client.promote(queue, job.id)
    assert client.counts(queue)["waiting"] == 1
    with pytest.raises(TorilError, match="wrong_state"):
        client.retry(queue, job.id)
    client.pause(queue)
    assert doors.toril.gateway.http.get(f"/queues/{queue}").json()["paused"] is True
    client.resume(queue)
    assert doors.toril.gateway.http.get(f"/queues/{queue}").json()["paused"] is False
    client.remove(queue, job.id)
    with pytest.raises(TorilError, match="job_not_found"):
        client.get(queue, job.id)


def test_groups_are_limited_paused_and_drained(client: Client, queue: str) -> None:
    acme = "acme/ü 1"
    rules: GroupLimits = {"concurrency": 2, "limit": {"max": 10, "duration": 500}, "weight": 3, "max_waiting": 3}
    limited = client.groups.set(queue, acme, **rules)
    assert (limited.id, limited.limits, limited.effective) == (acme, rules, rules)
    client.add_bulk(queue, [NewJob("n", n, {"group": {"id": acme, "priority": 7}}) for n in range(3)])
    with pytest.raises(TorilError) as caught:
        client.add(queue, "n", 3, group={"id": acme})
    assert (caught.value.code, caught.value.status) == ("group_full", 429)
    assert client.add(queue, "n", 4, group={"id": 7}).raw["opts"]["group"] == {"id": 7}
    assert [group.id for group in client.groups.list(queue)] == ["7", acme]
    assert [(group.id, group.waiting) for group in client.groups.list(queue, "acme*")] == [(acme, 3)]
    assert client.groups.get(queue, 7).waiting == 1
    client.groups.pause(queue, acme)
    assert client.groups.get(queue, acme).paused
    client.groups.resume(queue, acme)
    assert not client.groups.get(queue, acme).paused
    assert client.groups.drain(queue, acme) == 3
    assert client.groups.set(queue, acme, paused=True).limits["concurrency"] is None
    client.groups.reset(queue, acme)
    left = client.groups.get(queue, acme)
    assert (left.waiting, left.paused, left.held_until, set(left.limits.values())) == (0, False, None, {None})
    with pytest.raises(TorilError, match="invalid_request"):
        client.groups.set(queue, acme, weight=1001)


async def test_the_awaited_client_has_the_same_groups(doors: Doors, queue: str) -> None:
    async with AsyncClient(doors.toril.url, TOKEN) as client:
        await client.add(queue, "n", 1, group={"id": "acme"})
        assert (await client.groups.set(queue, "acme", concurrency=1)).effective["concurrency"] == 1
        await client.groups.pause(queue, "acme")
        assert [(group.id, group.paused) async for group in client.groups.list(queue)] == [("acme", True)]
        await client.groups.resume(queue, "acme")
        assert (await client.groups.get(queue, "acme")).paused is False
        assert await client.groups.drain(queue, "acme") == 1
        await client.groups.reset(queue, "acme")
        assert [group async for group in client.groups.list(queue)] == []


def test_a_delivery_is_followed_to_its_end(client: Client, doors: Doors) -> None:
    sent = client.deliveries.enqueue(
        TAKING,
        {"order": 1},
        key="order-1",
        path="/invoices",
        headers={"x-a": "b"},
        labels={"order": "1"},
        group={"id": "acme", "priority": 3},
    )
    assert (
        client.deliveries.enqueue(
            TAKING,
            {"order": 1},
            key="order-1",
            path="/invoices",
            headers={"x-a": "b"},
            labels={"order": "1"},
            group={"id": "acme", "priority": 3},
        ).id
        == sent.id
    )
    ended = client.deliveries.wait(sent.id)
    assert (ended.status, ended.attempts_made, ended.ended) == ("delivered", 1, True)
    assert ended.raw["group"] == {"id": "acme", "priority": 3}
    assert b'"path": "/taking/invoices"' in client.deliveries.response_body(sent.id)
    assert client.deliveries.get(sent.id).labels == {"order": "1"}
    assert [one.id for one in client.deliveries.list(TAKING, "delivered", labels={"order": "1"})] == [sent.id]
    with pytest.raises(TorilError, match="idempotency"):
        client.deliveries.enqueue(TAKING, {"order": 2}, key="order-1")


def test_a_delivery_without_a_key_is_accepted_once_though_it_is_sent_twice(client: Client, doors: Doors) -> None:
    """The first answer is lost on the way: the key that the client made up makes the second the same delivery."""
    send, lost = client._http.request, [True]

    def request(*args: object, **options: object) -> httpx.Response:
        answer = send(*args, **options)  # type: ignore[arg-type]
        if lost and lost.pop():
            raise httpx.ReadError("the answer was lost")
        return answer

    client._http.request = request  # type: ignore[assignment,method-assign]
    sent = client.deliveries.enqueue(TAKING, "once", labels={"test": "lost"})
    assert [one.id for one in client.deliveries.list(labels={"test": "lost"})] == [sent.id]


def test_a_delivery_is_cancelled(client: Client) -> None:
    waiting = client.deliveries.enqueue(TAKING, delay_ms=LATER)
    with pytest.raises(TimeoutError, match="is queued after 0 s"):
        client.deliveries.wait(waiting.id, 0)
    assert client.deliveries.cancel(waiting.id).status == "cancelled"
    with pytest.raises(TorilError) as caught:
        client.deliveries.cancel("no-such-delivery")
    assert caught.value.status in {400, 403, 404}


def test_dead_letters_are_listed_replayed_and_purged(client: Client) -> None:
    sent = [client.deliveries.enqueue(REFUSING, {"n": n}, labels={"test": "dead"}) for n in range(3)]
    assert {client.deliveries.wait(one.id).reason for one in sent} == {"refused"}
    dead = list(client.deliveries.dead_letters(REFUSING, reason="refused", labels={"test": "dead"}))
    assert {one.id for one in dead} == {one.id for one in sent}
    tried = client.deliveries.replay(REFUSING, labels={"test": "dead"}, dry_run=True)
    assert (tried.matched, tried.replayed) == (3, 0)
    replayed = client.deliveries.replay(REFUSING, job_ids=(one.id for one in sent[:2]), replay_key="new")
    assert (replayed.replayed, set(replayed.job_ids)) == (2, {one.id for one in sent[:2]})
    eventually(lambda: len(client.deliveries.get(sent[0].id).raw["attempts"]) == 2, what="its second attempt")
    client.deliveries.purge(REFUSING, sent[2].id)
    assert sent[2].id not in {one.id for one in client.deliveries.dead_letters(REFUSING)}


def test_targets_are_shown_and_paused(client: Client) -> None:
    assert {target["name"] for target in client.targets()} == {TAKING, REFUSING, SILENT}
    client.pause_target(SILENT)
    assert client.target(SILENT)["paused"] is True
    sent = client.deliveries.enqueue(SILENT)
    assert client.deliveries.get(sent.id).status == "queued"
    client.resume_target(SILENT)
    assert client.deliveries.wait(sent.id).status == "delivered"
    with pytest.raises(TorilError, match="unknown_target"):
        client.target("nowhere")


async def test_the_async_client_does_the_same(doors: Doors, queue: str) -> None:
    async with AsyncClient(doors.toril.url, TOKEN) as client:
        jobs = await client.add_bulk(queue, [NewJob("n", {"of": n % 2}, {"delay": LATER}) for n in range(4)])
        assert len([job async for job in client.search(queue, "data.of = 1")]) == 2
        assert (await client.bulk(queue, "remove", ids=[jobs[0].id])).done == 1
        await client.promote(queue, jobs[1].id)
        await client.pause(queue)
        await client.resume(queue)
        await client.remove(queue, jobs[1].id)
        with pytest.raises(TorilError, match="wrong_state"):
            await client.retry(queue, jobs[2].id)
        sent = await client.deliveries.enqueue(REFUSING, 1, labels={"test": "async"})
        assert (await client.deliveries.wait(sent.id)).status == "dead_lettered"
        assert (await client.deliveries.get(sent.id)).id == sent.id
        assert await client.deliveries.response_body(sent.id) == b"no"
        assert [one.id async for one in client.deliveries.list(labels={"test": "async"})] == [sent.id]
        assert sent.id in [one.id async for one in client.deliveries.dead_letters(REFUSING)]
        assert (await client.deliveries.replay(REFUSING, job_ids=[sent.id], dry_run=True)).matched == 1
        await client.deliveries.purge(REFUSING, sent.id)
        waiting = await client.deliveries.enqueue(TAKING, delay_ms=LATER)
        assert (await client.deliveries.cancel(waiting.id)).status == "cancelled"
        assert {one["name"] for one in await client.targets()} >= {TAKING}
        await client.pause_target(SILENT)
        await client.resume_target(SILENT)
        assert (await client.target(SILENT))["paused"] is False
        waits = await client.deliveries.enqueue(TAKING, delay_ms=LATER)
        with pytest.raises(TimeoutError):
            await client.deliveries.wait(waits.id, 0.05)


def test_a_proxied_request_is_submitted_waited_for_and_cancelled(doors: Doors) -> None:
    with ProxyClient(doors.toril.url) as proxy:
        job_id = proxy.submit("POST", "/api/teapot", json={"a": 1}, headers={"x-b": "c"})
        assert proxy.wait(job_id) == ProxiedJob(job_id, "completed")
        answer = proxy.response(job_id)
        assert (answer.status_code, answer.headers["x-pot"], answer.content) == (418, "short and stout", b"tip me over")
        running = proxy.submit("GET", "/api/never")
        with pytest.raises(TimeoutError, match="after 0 s"):
            proxy.wait(running, 0)
        with pytest.raises(TorilError) as caught:
            proxy.response(running)
        assert caught.value.status == 404
        assert proxy.get(running).status in {"queued", "running"}
        proxy.cancel(running)
        with pytest.raises(TorilError) as caught:
            proxy.get(running)
        assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_a_request_that_went_past_the_queue_has_its_answer(doors: Doors) -> None:
    with ProxyClient(doors.toril.url) as proxy, pytest.raises(NotQueued) as caught:
        proxy.submit("POST", "/api/teapot", content=iter([b"of ", b"no length"]))
    assert (caught.value.status, caught.value.response.content) == (418, b"tip me over")


def test_a_toril_that_is_away_is_said_to_be() -> None:
    with ProxyClient("http://127.0.0.1:9") as proxy, pytest.raises(TorilError) as caught:
        proxy.submit("GET", "/api")
    assert (caught.value.code, caught.value.status) == ("unreachable", 0)
