"""`toril.enqueue` takes what `POST /enqueue` takes: the same checks, codes, rows and fingerprints."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.postgres import PostgresProcess
from tests.support.sql_enqueue import NOWHERE, SqlCaller
from toril.core.errors import TorilError
from toril.delivery.ledger.sql_rows import group_text
from toril.delivery.rules.delivery import Inline
from toril.delivery.rules.enqueue import EnqueueRequest, read_envelope
from toril.delivery.rules.idempotency import fingerprint
from toril.delivery.rules.row_codec import unpack_envelope

MAX_BODY = 5000
CASTS = dict.fromkeys(("body", "headers", "labels", "group"), "::jsonb") | {"body_bytes": "::bytea"}
RENAMED = {"delay_ms": "delay", "body_base64": "body_bytes"}
"""What has another name in SQL."""

Connection = Any


@pytest.fixture(scope="module")
def caller(postgres: PostgresProcess, tmp_path_factory: pytest.TempPathFactory) -> SqlCaller:
    folder: Path = tmp_path_factory.mktemp("sql")
    (folder / "secret").write_text("hunter2")
    key = {"scheme": "header", "header": "X-Key", "secret_file": str(folder / "secret")}
    targets = {
        "billing": NOWHERE,
        "keyed": {"url": NOWHERE, "auth": key},
        "passing": {"url": NOWHERE, "auth": {"scheme": "passthrough"}},
    }
    return SqlCaller(postgres, folder, targets, max_body=MAX_BODY)


def in_transaction(caller: SqlCaller, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Do something over a connection of the ledger's owner, in a transaction that is rolled back."""

    async def doing() -> None:
        connection = await asyncpg.connect(caller.ledger)
        try:
            await connection.execute("BEGIN")
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(doing())


async def enqueued(connection: Connection, **arguments: Any) -> str:
    """Call the function with these arguments, by name."""
    named = ", ".join(f'"{name}" => ${n}{CASTS.get(name, "")}' for n, name in enumerate(arguments, 1))
    return str(await connection.fetchval(f"SELECT toril.enqueue({named})", *arguments.values()))


async def refused(connection: Connection, **arguments: Any) -> tuple[str, str | None]:
    """The code and the field with which the function refuses these arguments."""
    await connection.execute("SAVEPOINT before")
    with pytest.raises(asyncpg.RaiseError) as raised:
        await enqueued(connection, **arguments)
    await connection.execute("ROLLBACK TO before")
    assert raised.value.detail
    return raised.value.message, raised.value.column_name


def as_arguments(posted: dict[str, Any]) -> dict[str, Any]:
    """What is posted, as arguments of the function."""
    given = dict(posted)
    if "body_base64" in given:
        given["body_bytes"] = base64.b64decode(given.pop("body_base64"))
    if "delay_ms" in given:
        given["delay"] = timedelta(milliseconds=given.pop("delay_ms"))
    for name in ("not_before", "deadline"):
        if name in given:
            given[name] = datetime.fromisoformat(given[name])
    return given | {name: json.dumps(given[name]) for name in ("body", "headers", "labels", "group") if name in given}


async def as_posted(connection: Connection, posted: dict[str, Any]) -> EnqueueRequest | TorilError:
    """What `POST /enqueue` makes of it, or why it refuses it, with the body as PostgreSQL spells it."""
    rest = {name: json.dumps(value) for name, value in posted.items() if name != "idempotency_key"}
    if "body" in rest:
        rest["body"] = await connection.fetchval("SELECT $1::jsonb::text", rest["body"])
    text = "{" + ",".join(f'"{name}":{value}' for name, value in rest.items()) + "}"
    try:
        return read_envelope(text.encode(), key=posted.get("idempotency_key"), max_body_bytes=MAX_BODY)
    except TorilError as exc:
        return exc


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
tokens = st.text("abcXYZ-09_", min_size=1, max_size=8)
values = st.text(st.characters(max_codepoint=0x130, exclude_characters="\x00"), max_size=8)
names = tokens.map(lambda name: f"x{name}") | st.sampled_from(["Content-Type", "content-type", "Host", "x y", "é"])
types = st.sampled_from(["text/plain", "Application/JSON; charset=utf-8", "application/problem+json", "text/json "])
times = st.integers(1767225600, 1893456000).map(lambda at_s: datetime.fromtimestamp(at_s, UTC).isoformat())
SPELLINGS = [
    "/", "?", "x", "/%2e", "/a/..", "/a/%2E%2e;x/b", "/a/b?c=%20d/..", "/.well-known/x", "/a/.%2e?x", "/...", "/..\\b",
    "/a/..%3f", "/%20..%20/", "/a/..%2fb", "/é", "/a#b", "/..%00", "/%252e%252e/", "/a;/..;b",
]  # fmt: skip
paths = st.sampled_from([*SPELLINGS, "", "/a b"]) | st.text("/.%2eEfF5cC;?#\\ a", max_size=12).map(
    lambda text: f"/{text}"
)
odd_ids = st.sampled_from(["x" * 257, "é" * 256, " ", "t/1", ".", "..", "👩\u200d👧", "a\x85"])
ids = texts | odd_ids | st.integers(-(2**62), 2**62)
groups = st.fixed_dictionaries({"id": ids}, optional={"priority": st.integers(-1, 2**21 + 1)})
envelopes = st.fixed_dictionaries(
    {"target": st.just("passing")},
    optional={
        "method": st.sampled_from(["POST", "PUT", "get", "X-Y", "CONNECT", "a b", ""]),
        "path": paths,
        "headers": st.dictionaries(names, values | types | st.lists(values | types, max_size=3), max_size=4),
        "delay_ms": st.integers(0, 10**9),
        "deadline": times,
        "priority": st.integers(0, 2**21 + 1),
        "labels": st.dictionaries(texts, texts, max_size=3),
        "group": groups,
    },
)
bodies = (
    st.just({})
    | json_values.map(lambda body: {"body": body})
    | st.binary(max_size=300).map(lambda raw: {"body_base64": base64.b64encode(raw).decode()})
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(envelope=envelopes, body=bodies)
def test_sql_enqueue_accepts_refuses_and_deduplicates_as_http_does(
    caller: SqlCaller, envelope: dict[str, Any], body: dict[str, Any]
) -> None:
    posted = envelope | body | {"idempotency_key": "k"}

    async def compare(connection: Connection) -> None:
        expected = await as_posted(connection, posted)
        if isinstance(expected, TorilError):
            field = expected.details().get("field")
            assert await refused(connection, **as_arguments(posted)) == (expected.code, RENAMED.get(field, field))
            return
        job_id = await enqueued(connection, **as_arguments(posted))
        row = await connection.fetchrow("SELECT * FROM toril_deliveries WHERE job_id = $1", job_id)
        stored = unpack_envelope(row["envelope"])
        assert (stored.method, stored.path) == (expected.method, expected.path)
        assert sorted(stored.headers) == sorted(expected.headers)
        assert stored.content == (None if expected.body is None else Inline(expected.body))
        assert row["fingerprint"] == fingerprint(expected)
        assert row["job_group"] == group_text(expected.group)

    in_transaction(caller, compare)


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"target": None}, "invalid_envelope", "target"),
        ({"target": "t" * 65}, "invalid_envelope", "target"),
        ({"target": "nowhere"}, "unknown_target", "target"),
        ({"target": "billing'; DROP TABLE toril_deliveries; --"}, "unknown_target", "target"),
        ({"method": "m" * 65}, "invalid_envelope", "method"),
        ({"path": "/" + "a" * 16384}, "invalid_envelope", "path"),
        ({"body": "1", "body_bytes": b"1"}, "invalid_envelope", "body_bytes"),
        ({"body": json.dumps("x" * MAX_BODY)}, "envelope_too_large", "body"),
        ({"body": "[" * 901 + "]" * 901}, "invalid_envelope", "body"),
        ({"headers": "[]"}, "invalid_envelope", "headers"),
        ({"headers": "null"}, "invalid_envelope", "headers"),
        ({"headers": '{"x": 1}'}, "invalid_envelope", "headers"),
        ({"headers": json.dumps({"x": ["y" * 40000, "y" * 30000]})}, "invalid_envelope", "headers"),
        ({"headers": '{"Toril-Job-Id": "x"}'}, "invalid_envelope", "headers"),
        ({"headers": '{"Expect": "100-continue"}'}, "invalid_envelope", "headers"),
        ({"headers": '{"Authorization": "x"}'}, "invalid_envelope", "headers"),
        ({"target": "keyed", "headers": '{"x-key": "x"}'}, "invalid_envelope", "headers"),
        ({"idempotency_key": ""}, "invalid_envelope", "idempotency_key"),
        ({"idempotency_key": "a b"}, "invalid_envelope", "idempotency_key"),
        ({"idempotency_key": "k" * 256}, "invalid_envelope", "idempotency_key"),
        ({"delay": timedelta(seconds=-1)}, "invalid_envelope", "delay"),
        ({"delay": timedelta(days=3651)}, "invalid_envelope", "delay"),
        ({"delay": timedelta(0), "not_before": datetime.now(UTC)}, "invalid_envelope", "not_before"),
        ({"not_before": datetime.now(UTC) + timedelta(days=3654)}, "invalid_envelope", "not_before"),
        ({"deadline": datetime.now(UTC) + timedelta(days=3654)}, "invalid_envelope", "deadline"),
        ({"priority": -1}, "invalid_envelope", "priority"),
        ({"labels": "[]"}, "invalid_envelope", "labels"),
        ({"labels": '{"a": 1}'}, "invalid_envelope", "labels"),
        ({"labels": json.dumps({str(number): "x" for number in range(33)})}, "invalid_envelope", "labels"),
        ({"group": "null"}, "invalid_envelope", "group"),
        ({"group": "[]"}, "invalid_envelope", "group"),
        ({"group": "7"}, "invalid_envelope", "group"),
        ({"group": "{}"}, "invalid_envelope", "group"),
        ({"group": '{"id": null}'}, "invalid_envelope", "group"),
        ({"group": '{"id": true}'}, "invalid_envelope", "group"),
        ({"group": '{"id": 7.5}'}, "invalid_envelope", "group"),
        ({"group": '{"id": 9007199254740992}'}, "invalid_envelope", "group"),
        ({"group": '{"id": -9007199254740992}'}, "invalid_envelope", "group"),
        ({"group": '{"id": "a\\u0085"}'}, "invalid_envelope", "group"),
        ({"group": '{"id": ".."}'}, "invalid_envelope", "group"),
        ({"group": '{"id": "a", "priority": "1"}'}, "invalid_envelope", "group"),
        ({"group": '{"id": "a", "priority": null}'}, "invalid_envelope", "group"),
        ({"group": '{"id": "a", "priority": 1.5}'}, "invalid_envelope", "group"),
        ({"group": '{"id": "a", "size": 1}'}, "invalid_envelope", "group"),
    ],
)
def test_a_refused_sql_enqueue_names_the_code_and_the_field(
    caller: SqlCaller, arguments: dict[str, Any], code: str, field: str
) -> None:
    async def work(connection: Connection) -> None:
        assert await refused(connection, **({"target": "billing"} | arguments)) == (code, field)
        for table in ("toril_deliveries", "toril_transitions", "toril_labels", "toril.unqueued"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0

    in_transaction(caller, work)


@pytest.mark.parametrize("given", ["infinity", "-infinity", "0044-03-15 BC"])
def test_a_time_that_no_calendar_on_the_wire_has_is_refused(caller: SqlCaller, given: str) -> None:
    async def work(connection: Connection) -> None:
        with pytest.raises(asyncpg.RaiseError, match="invalid_envelope"):
            await connection.execute(f"SELECT toril.enqueue('billing', deadline => '{given}')")

    in_transaction(caller, work)


def test_a_key_gives_the_first_id_again_and_no_second_delivery(caller: SqlCaller) -> None:
    async def work(connection: Connection) -> None:
        given = {"target": "passing", "idempotency_key": "k", "headers": '{"Authorization": "Bearer x"}'}
        first = await enqueued(connection, **given, body='{"a": 1, "b": [1.50, "é"]}')
        again = await enqueued(connection, **given, body='{"b":[1.5,"\\u00e9"],   "a":1}', method="POST", labels="{}")
        assert again == first
        assert await refused(connection, **given, body="2") == ("idempotency_mismatch", "idempotency_key")
        other = await enqueued(connection, **(given | {"target": "billing", "headers": None}), body="2")
        assert other != first, "a target is the boundary of a key"
        assert await connection.fetchval("SELECT count(*) FROM toril.unqueued") == 2

    in_transaction(caller, work)


def test_times_count_from_the_beginning_of_the_transaction(caller: SqlCaller) -> None:
    async def work(connection: Connection) -> None:
        now = await connection.fetchval("SELECT extract(epoch FROM now())::float8")
        past = datetime.now(UTC) - timedelta(days=1)
        for arguments, due_s in (
            ({}, None),
            ({"delay": timedelta(0)}, None),
            ({"not_before": past}, None),
            ({"delay": timedelta(milliseconds=1500)}, now + 1.5),
            ({"not_before": past + timedelta(days=2)}, (past + timedelta(days=2)).timestamp()),
        ):
            job_id = await enqueued(connection, target="billing", **arguments)
            row = await connection.fetchrow("SELECT * FROM toril_deliveries WHERE job_id = $1", job_id)
            assert (row["created_at"], row["updated_at"], row["status"], row["seq"]) == (now, now, "queued", 1)
            assert row["next_attempt_at"] == (None if due_s is None else pytest.approx(due_s, abs=1e-5))

    in_transaction(caller, work)


def test_settings_of_the_callers_session_change_nothing(caller: SqlCaller) -> None:
    async def work(connection: Connection) -> None:
        given = {"target": "billing", "idempotency_key": "k", "path": "/a?b", "body": "[0.1, 1e-7]"}
        given |= {"headers": '{"x": "tab\\there"}', "deadline": datetime(2030, 1, 1, tzinfo=UTC)}
        first = await enqueued(connection, **given)
        before = await connection.fetchrow("SELECT fingerprint, envelope FROM toril_deliveries")
        for setting in (
            "standard_conforming_strings = off",
            "extra_float_digits = -15",
            "bytea_output = escape",
            "TimeZone = 'America/St_Johns'",
            "DateStyle = 'SQL, DMY'",
            "IntervalStyle = sql_standard",
            "search_path = ''",
        ):
            await connection.execute(f"SET LOCAL {setting}")
        assert await enqueued(connection, **given) == first
        await connection.execute("DELETE FROM public.toril_deliveries")
        await enqueued(connection, **given)
        assert await connection.fetchrow("SELECT fingerprint, envelope FROM public.toril_deliveries") == before

    in_transaction(caller, work)
