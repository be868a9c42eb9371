"""Answers too large for Redis: in a folder or in S3, given back byte for byte, and gone when their time is over."""

import hashlib
import os
import shutil
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from tests.support.endpoint import respond
from tests.support.gateway import PLAIN
from tests.support.proxied import memory_kb
from tests.support.proxq import Backend, Proxq, Reply, StartProxq
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

BODY = bytes(range(256)) * 8192
"""2 MB."""

Start = Callable[..., Proxq]


def files(folder: Path) -> list[Path]:
    """Those in a folder and below it, which need not be there."""
    # Folders may vanish meanwhile.
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def in_redis(store: redis.Redis, queue: str) -> int:
    """Bytes that Redis has for a queue's keys and for its cache."""
    keys = [*store.keys(f"bull:{queue}/*"), *store.keys(f"{queue}:cache:*")]
    assert keys
    return sum(store.memory_usage(key) or 0 for key in keys)


@pytest.fixture
def queue() -> str:
    """A name that several instances of a test can have."""
    return f"px-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def start(start_proxq: StartProxq, valkey: ValkeyProcess, backend: Backend, queue: str) -> Start:
    """Starts instances of one fleet, all in the same working folder unless told otherwise."""

    def starting(document: dict[str, Any] | None = None, **options: Any) -> Proxq:
        whole = {
            "queue": queue,
            "upstreams": [{"prefix": "/", "url": backend.url}],
            "payloads": {"redis_max": 262144},
        } | (document or {})
        return start_proxq(valkey, whole, **options)

    return starting


def large(backend: Backend, body: bytes = BODY) -> str:
    """A path with such an answer."""
    return backend.path(respond(200, "OK", [("x-up", "1")], body))


def done(proxq: Proxq, path: str) -> str:
    """The id of a job that has completed."""
    job_id = proxq.submit("GET", path)
    proxq.is_in(job_id, "completed")
    return job_id


def is_whole(answer: Reply, body: bytes = BODY) -> bool:
    return (answer.status, answer.headers) == (
        200,
        (("x-up", "1"), ("content-length", str(len(body)))),
    ) and answer.body == body


def test_without_a_store_every_instance_can_read_an_answer_that_redis_may_hold(
    start: Start, backend: Backend, tmp_path: Path
) -> None:
    """What proxq's own configuration gives, with two replicas: nothing of it says where answers are to go."""
    here, there = tmp_path / "here", tmp_path / "there"
    instances = [start({"payloads": {}}, cwd=folder) for folder in (here, there)]
    bodies = [BODY[:300_000], b"text " * 100_000, BODY * 4]
    jobs = [(instances[n % 2].submit("GET", large(backend, body)), body) for n, body in enumerate(bodies * 2)]
    for job_id, body in jobs:
        instances[0].is_in(job_id, "completed")
        assert all(is_whole(proxq.content(job_id), body) for proxq in instances)
    assert files(here) == files(there) == []

    # One byte more than Redis may hold is in a folder, and the log of the one that put it there says so.
    job_id = done(instances[0], large(backend, BODY * 4 + b"+"))
    [has_it] = [proxq for proxq, folder in zip(instances, (here, there), strict=True) if files(folder)]
    assert is_whole(has_it.content(job_id), BODY * 4 + b"+")
    told = ["payloads.kept_in_folder" in proxq.process.log() for proxq in instances]
    assert told == [proxq is has_it for proxq in instances]


def test_how_much_redis_may_hold_can_be_changed_by_a_reload(start: Start, backend: Backend, tmp_path: Path) -> None:
    folder = tmp_path / "toril-payloads"
    proxq = start({"payloads": {"redis_max": "1000"}})
    done(proxq, large(backend, BODY[:1001]))
    assert len(files(folder)) == 1
    [config] = tmp_path.glob("proxq-*.yaml")
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"payloads": {"redis_max": 2000}}))
    proxq.process.send(signal.SIGHUP)
    eventually(lambda: "config.reloaded" in proxq.process.log(), timeout_s=30, what="the reload")
    done(proxq, large(backend, BODY[:2000]))
    assert len(files(folder)) == 1
    done(proxq, large(backend, BODY[:2001]))
    assert len(files(folder)) == 2


def test_without_a_store_a_large_answer_is_in_a_folder_and_not_in_redis(
    start: Start, store: redis.Redis, queue: str, backend: Backend, tmp_path: Path
) -> None:
    folder, other = tmp_path / "toril-payloads", tmp_path / "other"
    proxq = start()
    assert str(folder) in proxq.process.log()
    assert "need one shared store (payloads.url)" in proxq.process.log()
    small = done(proxq, backend.path(respond(200, "OK", [("x-up", "1")], b"small")))
    assert not folder.exists()
    job_id = done(proxq, large(backend))
    assert in_redis(store, queue) < 100_000
    assert '"blob"' in str(store.hget(f"bull:{queue}/:{job_id}", "response"))
    assert [file.read_bytes() for file in files(folder)] == [BODY]
    assert folder.stat().st_mode & 0o777 == 0o700
    for _ in range(2):
        assert is_whole(proxq.content(job_id))
    assert proxq.content(job_id, "HEAD").value("content-length") == str(len(BODY))

    # A reload names a store: what is new is there, and what was is where it was.
    [config] = tmp_path.glob("proxq-*.yaml")
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"payloads": {"url": f"file://{other}"}}))
    proxq.process.send(signal.SIGHUP)
    eventually(lambda: "config.reloaded" in proxq.process.log(), timeout_s=30, what="the reload")
    second = done(proxq, large(backend))
    assert len(files(folder)) == len(files(other)) == 1
    assert is_whole(proxq.content(job_id))
    assert is_whole(proxq.content(second))

    # Also after a restart; and all of it goes when jobs are known no longer.
    proxq.process.terminate()
    proxq = start({"payloads": {"url": f"file://{other}"}})
    assert [is_whole(proxq.content(one)) for one in (job_id, second)] == [True, True]
    proxq.process.terminate()
    proxq = start({"payloads": {"url": f"file://{other}"}, "taskRetention": "1s"})
    eventually(lambda: not files(folder) and not files(other), timeout_s=60, what="the files to be removed")
    assert {proxq.status(one).status for one in (small, job_id, second)} == {404}


def test_where_the_folder_cannot_be_written_only_large_answers_fail_and_say_why(
    start: Start, store: redis.Redis, queue: str, backend: Backend, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "toril-payloads"
    in_the_way.write_text("not a folder")
    proxq = start()
    assert proxq.replayed("GET", backend.path(respond(body=b"small"))).body == b"small"
    failed = proxq.submit("GET", large(backend))
    assert proxq.is_in(failed, "failed")["error"] == (
        "the upstream's answer could not be kept: the folder toril-payloads cannot be written (File exists): "
        "let toril write there, or configure payloads.url"
    )
    assert in_redis(store, queue) < 100_000
    assert str(in_the_way) in proxq.process.log()
    in_the_way.unlink()
    assert is_whole(proxq.content(done(proxq, large(backend))))


def test_an_answer_that_another_machine_has_is_an_error_with_its_remedy_in_the_log(
    start: Start, backend: Backend, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    one, two = start(cwd=here), start(cwd=there)
    job_id = two.submit("GET", large(backend))
    two.is_in(job_id, "completed")
    [has_it] = [folder for folder in (here, there) if files(folder)]
    with_it, without = (one, two) if has_it == here else (two, one)
    assert is_whole(with_it.content(job_id))
    answer = without.content(job_id)
    assert (answer.status, answer.is_ours) == (500, True)
    assert answer.json == {"code": "INTERNAL_SERVER_ERROR", "message": "Internal Server Error"}
    [line] = [line for line in without.process.log().splitlines() if "replay.body_missing" in line]
    assert "they need one store of large bodies (payloads.url)" in line
    assert "replay.body_missing" not in with_it.process.log()


def test_a_large_answer_is_in_s3_and_not_in_redis(
    start: Start, store: redis.Redis, queue: str, backend: Backend, s3: S3Server, tmp_path: Path
) -> None:
    bucket = s3.make_bucket()
    document = {"payloads": {"url": f"s3://{bucket}/answers"}}
    proxq = start(document, env=s3.env)
    job_id = done(proxq, large(backend))
    [key] = s3.keys(bucket)
    assert key.startswith(f"answers/responses/{job_id}/")
    assert in_redis(store, queue) < 100_000
    assert is_whole(proxq.content(job_id))
    assert not files(tmp_path / "toril-payloads")
    proxq.process.terminate()
    start(document | {"taskRetention": "1s"}, env=s3.env)
    eventually(lambda: s3.keys(bucket) == [], timeout_s=60, what="the object to be removed")


def test_a_large_answer_is_cached_without_being_in_redis(
    start: Start, store: redis.Redis, queue: str, backend: Backend, tmp_path: Path
) -> None:
    proxq = start({"cache": {"mode": "redis", "redisKeyPrefix": f"{queue}:"}})
    path = large(backend)
    first, second = done(proxq, path), done(proxq, path)
    answers = [proxq.content(job_id) for job_id in (first, second)]
    assert [answer.value("x-cache-status") for answer in answers] == ["MISS", "HIT"]
    assert [answer.body for answer in answers] == [BODY, BODY]
    assert len(backend.calls(path)) == 1
    assert in_redis(store, queue) < 100_000
    # A cached answer whose body is gone is one that is not cached.
    shutil.rmtree(tmp_path / "toril-payloads" / "cached")
    third = done(proxq, path)
    assert proxq.content(third).value("x-cache-status") == "MISS"
    assert proxq.content(third).body == BODY
    assert len(backend.calls(path)) == 2


def test_a_large_answer_is_given_back_without_being_held(start: Start, backend: Backend) -> None:
    body = bytes(range(256)) * (64 * 4096)
    proxq = start()
    job_id = done(proxq, large(backend, body))
    proxq.process.terminate()
    proxq = start()

    def digest(job_id: str) -> str:
        url, seen = f"{proxq.process.url}/__jobs/{job_id}/content", hashlib.sha256()
        with httpx.stream("GET", url, timeout=60, trust_env=False, verify=PLAIN) as answer:
            for piece in answer.iter_raw():
                seen.update(piece)
        return seen.hexdigest()

    small = done(proxq, large(backend))
    assert digest(small) == hashlib.sha256(BODY).hexdigest()  # what it needs only once, it has now
    before = memory_kb(proxq.process)
    assert digest(job_id) == hashlib.sha256(body).hexdigest()
    assert memory_kb(proxq.process) - before < 24 * 1024
