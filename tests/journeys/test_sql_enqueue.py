"""`toril.enqueue` in a caller's own transaction: what commits is delivered, what rolls back never was."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.deliveries import Door
from tests.support.endpoint import Call, Endpoint, respond
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresProcess
from tests.support.sql_enqueue import NOWHERE, SqlCaller, migrated
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

PATIENCE_S = 30.0
QUICK = {"base": "50ms", "max": "50ms"}
StartEndpoint = Callable[..., Endpoint]


def keys(endpoint: Endpoint) -> Counter[str]:
    """How often each idempotency key reached the endpoint."""
    return Counter(call.header("idempotency-key") for call in endpoint.calls)


class Shop:
    """A shop with a database, toril beside it, and the endpoint that its target is."""

    def __init__(self, postgres: PostgresProcess, folder: Path, endpoint: Endpoint, **more: Any) -> None:
        self.endpoint = endpoint
        targets = {"billing": {"url": endpoint.at("/"), "retry": QUICK}, "parked": NOWHERE}
        self.without_redis = "redis" in more
        self.sql = SqlCaller(postgres, folder, targets, **more)
        self.env = {"QUEUE_PREFIX": f"test-{uuid.uuid4().hex[:8]}"}

    @property
    def args(self) -> list[str]:
        """Arguments of its toril."""
        return ["--config", str(self.sql.config)]

    def unqueued(self) -> int:
        """How many deliveries have no job yet."""
        return int(self.sql.admin("SELECT count(*) FROM toril.unqueued"))


@pytest.fixture(params=[{}, {"redis": "none"}], ids=["redis", "postgresql alone"])
def shop(request: pytest.FixtureRequest, postgres: PostgresProcess, tmp_path: Path, endpoint: Endpoint) -> Shop:
    return Shop(postgres, tmp_path, endpoint, **request.param)


@pytest.fixture
def toril(shop: Shop, valkey: ValkeyProcess, start_toril: StartToril) -> TorilProcess:
    """A toril that listens already."""
    started = start_toril(valkey, args=shop.args, env=shop.env)
    listening = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'toril:listening' "
        "AND datname = current_database()"
    )
    eventually(lambda: shop.sql.admin(listening) == "1", timeout_s=PATIENCE_S)
    return started


def test_the_example_of_the_contract_from_psql(shop: Shop, toril: TorilProcess) -> None:
    shop.sql.admin("INSERT INTO public.orders VALUES (4711)")
    job_id = shop.sql.as_caller(
        """BEGIN;
        UPDATE orders SET id = id WHERE id = 4711;
        SELECT toril.enqueue('billing', path => '/invoices', body => '{"order": 4711}', idempotency_key => 'order-4711',
            labels => '{"tenant": "t1"}');
        COMMIT;"""
    )
    found = Door(toril.gateway).job(job_id, wait=10)
    assert (found["status"], found["labels"], found["target"]) == ("delivered", {"tenant": "t1"}, "billing")
    assert [step["to"] for step in found["transitions"]] == ["queued", "dispatching", "delivered"]
    assert found["transitions"][0]["by"] == f"sql:{shop.sql.role}"
    (call,) = shop.endpoint.calls
    assert (call.method, call.target, call.json) == ("POST", "/invoices", {"order": 4711})
    assert call.header("content-type") == "application/json"
    assert (call.header("idempotency-key"), call.header("toril-job-id")) == ("order-4711", job_id)
    assert json.loads(shop.sql.as_caller(f"SELECT toril.job('{job_id}')")) == found
    assert shop.unqueued() == 0


def test_toril_job_shows_what_the_api_shows_also_of_a_dead_letter_with_many_headers(
    shop: Shop, toril: TorilProcess
) -> None:
    async def refuse(call: Call) -> Any:
        headers = [("x-a", "1"), ("X-A", "zwei \xfc"), ("set-cookie", "a=b"), ("x-long", "y" * 300)]
        return respond(400, b"no\x00\xff" * 100, headers=headers)

    shop.endpoint.behaviour = refuse
    job_id = shop.sql.as_caller("SELECT toril.enqueue('billing', deadline => now() + interval '1 day', priority => 7)")
    found = Door(toril.gateway).job(job_id, wait=10)
    assert found["status"] == "dead_lettered"
    assert found["response"]["headers"].pop("set-cookie") == "a=b"
    shown = json.loads(shop.sql.as_caller(f"SELECT toril.job('{job_id}')"))
    assert shown["response"]["headers"].pop("set-cookie") == "(hidden)"
    assert shown == found
    assert shop.sql.as_caller("SELECT toril.job(gen_random_uuid()) IS NULL") == "t"


async def test_a_rolled_back_transaction_enqueues_nothing(shop: Shop, toril: TorilProcess) -> None:
    connection = await shop.sql.connect()
    try:
        await connection.execute("BEGIN")
        await connection.execute("SELECT toril.enqueue('billing', idempotency_key => 'rolled-back')")
        await connection.execute("ROLLBACK")
        async with connection.transaction():
            await connection.execute("SELECT toril.enqueue('billing', idempotency_key => 'before')")
            await connection.execute("SAVEPOINT here")
            await connection.execute("SELECT toril.enqueue('billing', idempotency_key => 'to-a-savepoint')")
            await connection.execute("ROLLBACK TO here")
            await connection.execute("SAVEPOINT here")
            await connection.execute("SELECT toril.enqueue('billing', idempotency_key => 'refused')")
            with pytest.raises(asyncpg.RaiseError):
                await connection.execute("SELECT toril.enqueue('nowhere')")
            await connection.execute("ROLLBACK TO here")
            await connection.execute("SELECT toril.enqueue('billing', idempotency_key => 'after')")
            assert shop.endpoint.calls == [], "nothing is sent before the commit"
        # A key of what was rolled back is free.
        await connection.execute("SELECT toril.enqueue('billing', '/2', idempotency_key => 'rolled-back')")
    finally:
        await connection.close()
    shop.endpoint.wait_for_calls(3, timeout_s=PATIENCE_S)
    eventually(lambda: len(Door(toril.gateway).jobs(status="delivered")) == 3, timeout_s=PATIENCE_S)
    assert keys(shop.endpoint) == Counter(["before", "after", "rolled-back"])
    assert len(Door(toril.gateway).jobs()) == 3


async def test_one_key_in_many_transactions_at_once_is_one_delivery(shop: Shop, toril: TorilProcess) -> None:
    connections = [await shop.sql.connect() for _ in range(10)]
    try:
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(one.fetchval("SELECT toril.enqueue('billing', idempotency_key => 'k')"))
                for one in connections
            ]
        assert len({str(task.result()) for task in asked}) == 1
    finally:
        for one in connections:
            await one.close()
    shop.endpoint.wait_for_calls(1, timeout_s=PATIENCE_S)
    eventually(lambda: len(Door(toril.gateway).jobs(status="delivered")) == 1, timeout_s=PATIENCE_S)
    assert len(Door(toril.gateway).jobs()) == 1
    assert keys(shop.endpoint) == Counter(["k"])


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_key_that_another_snapshot_does_not_see_is_to_be_tried_again(
    shop: Shop, toril: TorilProcess, isolation: Any
) -> None:
    # Nothing works on it meanwhile, which would be a concurrent update, too.
    enqueue = "SELECT toril.enqueue('billing', idempotency_key => $1, delay => interval '1 hour')"
    first, second = [await shop.sql.connect() for _ in range(2)]
    try:
        async with first.transaction(isolation=isolation):
            await first.fetchval("SELECT count(*) FROM orders")
            ours = await second.fetchval(enqueue, "k")
            # Other keys do not conflict.
            await first.fetchval(enqueue, "other")
            with pytest.raises(asyncpg.SerializationError):
                async with first.transaction():
                    await first.fetchval(enqueue, "k")
        async with first.transaction(isolation=isolation):
            assert await first.fetchval(enqueue, "k") == ours
    finally:
        await first.close()
        await second.close()
    assert len(Door(toril.gateway).jobs()) == 2


def test_concurrent_serialisable_transactions_do_not_conflict_over_enqueue(shop: Shop, toril: TorilProcess) -> None:
    with psycopg.connect(shop.sql.url) as one, psycopg.connect(shop.sql.url) as other:
        for connection in (one, other):
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        for number, connection in enumerate((one, other, one, other)):
            connection.execute("INSERT INTO orders VALUES (%s)", (number,))
            connection.execute("SELECT toril.enqueue('billing', idempotency_key => %s)", (f"order-{number}",))
        one.commit()
        other.commit()
    eventually(lambda: len(Door(toril.gateway).jobs(status="delivered")) == 4, timeout_s=PATIENCE_S)
    assert keys(shop.endpoint) == Counter(f"order-{number}" for number in range(4))


def test_psycopg_sends_json_texts_and_bytes(shop: Shop, toril: TorilProcess) -> None:
    raw = bytes(range(256)) * 40
    with psycopg.connect(shop.sql.url) as connection:
        enqueue = (
            "SELECT toril.enqueue('billing', %(path)s, body => %(body)s, body_bytes => %(raw)s, headers => %(headers)s)"
        )
        text = {"headers": Jsonb({"content-type": "text/plain"}), "body": Jsonb("zwei \u20ac"), "raw": None}
        for arguments in (
            {"path": "/json", "body": Jsonb({"a": [1, "\u20ac"]}), "raw": None, "headers": None},
            {"path": "/text", **text},
            {
                "path": "/bytes",
                "body": None,
                "raw": raw,
                "headers": Jsonb({"content-type": "image/png", "x-a": ["1", "2"]}),
            },
            {"path": None, "body": None, "raw": None, "headers": None},
        ):
            connection.execute(enqueue, arguments)
    shop.endpoint.wait_for_calls(4, timeout_s=PATIENCE_S)
    calls = {call.target: call for call in shop.endpoint.calls}
    assert calls["/json"].json == {"a": [1, "\u20ac"]}
    assert calls["/text"].body.decode() == "zwei \u20ac"
    assert calls["/bytes"].body == raw
    assert [value for name, value in calls["/bytes"].headers if name == "x-a"] == ["1", "2"]
    assert (calls["/"].body, calls["/"].header("content-type")) == (b"", None)


def test_a_key_is_the_same_over_http_and_in_sql(shop: Shop, toril: TorilProcess) -> None:
    door = Door(toril.gateway)
    envelope = {"path": "/a", "body": {"b": 1.5, "a": [1]}, "labels": {"x": "y"}, "headers": {"X-B": "1", "x-a": "2"}}
    arguments = (
        """path => '/a', body => '{"a": [1], "b": 1.50}', labels => '{"x": "y"}', """
        """headers => '{"x-a": "2", "x-b": "1"}'"""
    )
    by_http = door.enqueue("parked", "http-first", **envelope)
    assert (
        shop.sql.as_caller(f"SELECT toril.enqueue('parked', {arguments}, idempotency_key => 'http-first')") == by_http
    )
    in_sql = shop.sql.as_caller(f"SELECT toril.enqueue('parked', {arguments}, idempotency_key => 'sql-first')")
    again = door.post({"target": "parked"} | envelope, "sql-first")
    assert (again.status_code, again.json()["job_id"], again.headers["idempotent-replayed"]) == (200, in_sql, "true")
    other = door.post({"target": "parked"}, "sql-first")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    with psycopg.connect(shop.sql.url) as connection, pytest.raises(psycopg.errors.RaiseException) as raised:
        connection.execute("SELECT toril.enqueue('parked', idempotency_key => 'http-first')")
    assert raised.value.diag.message_primary == "idempotency_mismatch"
    assert by_http in str(raised.value.diag.message_detail)


def test_a_group_is_the_same_over_http_and_in_sql(shop: Shop, toril: TorilProcess) -> None:
    door = Door(toril.gateway)
    call = "SELECT toril.enqueue('parked', idempotency_key => 'k', \"group\" => '{\"id\": 7, \"priority\": 3}')"
    assert door.http.post("/targets/parked/pause").is_success
    posted = door.post({"target": "parked", "group": {"id": "7", "priority": 3}}, "k")
    job_id = posted.json()["job_id"]
    assert shop.sql.as_caller(call) == job_id
    in_sql = shop.sql.as_caller('SELECT toril.enqueue(\'parked\', "group" => \'{"id": "acme/1"}\')')
    for one, group in ((job_id, {"id": "7", "priority": 3}), (in_sql, {"id": "acme/1", "priority": 0})):
        assert door.job(one)["group"] == group
        assert json.loads(shop.sql.as_caller(f"SELECT toril.job('{one}')"))["group"] == group
    eventually(lambda: shop.unqueued() == 0, timeout_s=PATIENCE_S)
    found = door.http.get("/queues/deliver-parked/groups").json()["groups"]
    assert [(group["id"], group["waiting"]) for group in found] == [("7", 1), ("acme/1", 1)]


def test_rows_committed_while_toril_is_down_are_delivered_when_it_is_back(
    shop: Shop, valkey: ValkeyProcess, start_toril: StartToril
) -> None:
    ids = shop.sql.as_caller(
        "SELECT toril.enqueue('billing', idempotency_key => n::text) FROM generate_series(1, 1200) AS n"
    ).split()
    assert len(set(ids)) == 1200
    toril = start_toril(valkey, args=shop.args, env=shop.env)
    shop.endpoint.wait_for_calls(1200, timeout_s=60)
    eventually(
        lambda: shop.sql.admin("SELECT DISTINCT status FROM toril_deliveries") == "delivered", timeout_s=PATIENCE_S
    )
    assert keys(shop.endpoint) == Counter(str(number) for number in range(1, 1201))
    assert (shop.unqueued(), len(Door(toril.gateway).jobs(limit=500))) == (0, 1200)


def test_a_delivery_cancelled_before_it_is_queued_is_not_sent(
    shop: Shop, valkey: ValkeyProcess, start_toril: StartToril
) -> None:
    gone = shop.sql.as_caller("SELECT toril.enqueue('billing', '/gone')")
    shop.sql.admin(f"UPDATE toril_deliveries SET status = 'cancelled', finished_at = 1 WHERE job_id = '{gone}'")
    shop.sql.as_caller("SELECT toril.enqueue('billing', '/stays')")
    start_toril(valkey, args=shop.args, env=shop.env)
    shop.endpoint.wait_for_calls(1, timeout_s=PATIENCE_S)
    eventually(lambda: shop.unqueued() == 0, timeout_s=PATIENCE_S)
    assert [call.target for call in shop.endpoint.calls] == ["/stays"]


def test_a_schema_that_is_made_later_is_found(shop: Shop, valkey: ValkeyProcess, start_toril: StartToril) -> None:
    shop.sql.admin("DROP SCHEMA toril CASCADE")
    start_toril(valkey, args=shop.args, env=shop.env)
    migrated(shop.sql.config)
    shop.sql.admin("SELECT toril.enqueue('billing')")
    shop.endpoint.wait_for_calls(1, timeout_s=PATIENCE_S)


def test_the_delay_of_an_envelope_enqueued_in_sql_is_kept(shop: Shop, toril: TorilProcess) -> None:
    job_id = shop.sql.as_caller("SELECT toril.enqueue('billing', delay => interval '1.5 seconds')")
    shop.endpoint.wait_for_calls(1, timeout_s=PATIENCE_S)
    found = Door(toril.gateway).job(job_id, wait=10)
    waited = (
        "SELECT (min(a.started_at) - min(d.created_at)) FROM toril_attempts a JOIN toril_deliveries d USING (job_id)"
    )
    assert 1.4 < float(shop.sql.admin(waited)) < PATIENCE_S
    assert found["status"] == "delivered"


class TestThroughPgBouncer:
    """In transaction mode, where nothing can be listened to and every statement may meet another server."""

    def test_callers_and_toril_both_work_through_pgbouncer(
        self, shop: Shop, pgbouncer: PgBouncer, valkey: ValkeyProcess, start_toril: StartToril
    ) -> None:
        document = shop.sql.config.read_text()
        shop.sql.config.write_text(document.replace(shop.sql.ledger, pgbouncer.through(shop.sql.ledger)))
        toril = start_toril(valkey, args=shop.args, env=shop.env)
        with psycopg.connect(pgbouncer.through(shop.sql.ledger), prepare_threshold=None) as connection:
            for number in range(6):
                connection.execute("SELECT toril.enqueue('billing', idempotency_key => %s)", (str(number),))
                (connection.rollback if number % 3 == 2 else connection.commit)()
                if number % 3 != 2:
                    shop.endpoint.wait_for_calls(number - number // 3 + 1, timeout_s=PATIENCE_S)
        assert keys(shop.endpoint) == Counter(["0", "1", "3", "4"])
        assert "toril:listening" not in shop.sql.admin("SELECT string_agg(application_name, ',') FROM pg_stat_activity")
        eventually(lambda: len(Door(toril.gateway).jobs(status="delivered")) == 4, timeout_s=PATIENCE_S)


class TestGrants:
    """`EXECUTE` is enough, and everything else is refused."""

    TABLES = (
        "toril.targets", "toril.unqueued", "toril.version", "toril.attention", "toril_deliveries",
        "toril_transitions", "toril_attempts", "toril_labels", "toril_ledger", "toril_schema",
        "toril_jobs", "toril_queues", "toril_breakers", "toril_conditions",
        "toril_groups", "toril_members", "toril_points", "toril_failures", "toril_audit",
    )  # fmt: skip

    def refused(self, shop: Shop, sql: str, user: str) -> None:
        url = f"postgresql://{user}@127.0.0.1:{shop.sql.postgres.port}/{shop.sql.database}"
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql)

    def test_a_caller_can_read_and_write_no_table(self, shop: Shop) -> None:
        shop.sql.as_caller("SELECT toril.enqueue('parked')")
        for table in self.TABLES:
            self.refused(shop, f"SELECT * FROM {table}", shop.sql.role)
            self.refused(shop, f"DELETE FROM {table}", shop.sql.role)
            self.refused(shop, f"INSERT INTO {table} DEFAULT VALUES", shop.sql.role)
        self.refused(shop, "CREATE TABLE toril.mine ()", shop.sql.role)
        self.refused(shop, "CREATE FUNCTION toril.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1'", shop.sql.role)

    def test_a_caller_can_call_nothing_else(self, shop: Shop) -> None:
        functions = shop.sql.admin(
            "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'toril'::regnamespace "
            "AND proname NOT IN ('enqueue', 'job')"
        ).splitlines()
        assert len(functions) > 10
        for function in functions:
            assert shop.sql.admin(f"SELECT has_function_privilege('{shop.sql.role}', '{function}', 'EXECUTE')") == "f"
        self.refused(shop, "SELECT toril._canonical('1')", shop.sql.role)

    def test_a_role_without_the_right_can_call_neither(self, shop: Shop) -> None:
        shop.sql.admin(f"CREATE ROLE {shop.sql.role}_b LOGIN")
        self.refused(shop, "SELECT toril.enqueue('parked')", f"{shop.sql.role}_b")
        self.refused(shop, "SELECT toril.job(gen_random_uuid())", f"{shop.sql.role}_b")

    def test_objects_of_the_caller_are_not_used_in_place_of_the_servers(self, shop: Shop) -> None:
        job_id = shop.sql.as_caller(
            """CREATE TEMP TABLE toril_deliveries (job_id text);
            CREATE FUNCTION pg_temp.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'used'; END $$;
            SET search_path = pg_temp, public;
            SELECT toril.enqueue('parked', headers => '{"x-a": "b"}', idempotency_key => 'k')"""
        )
        assert shop.sql.admin("SELECT job_id FROM public.toril_deliveries") == job_id
