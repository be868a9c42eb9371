"""The commands of operators, as a person runs them in a terminal and a script runs them without one."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.commands import Ran, run_toril
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, StartEndpoint, respond
from tests.support.gateway import TOKEN, Gateway, job
from tests.support.ports import free_port
from tests.support.terminal import Terminal
from tests.support.tokens import token, write
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

Run = Callable[..., Ran]
InTerminal = Callable[..., Terminal]


@pytest.fixture
def run(toril: TorilProcess, tmp_path: Path) -> Run:
    """Runs a command as a script does, at the shared toril unless told otherwise."""

    def start(*arguments: str, url: str = toril.url, secret: str = TOKEN, given: str = "", **env: str) -> Ran:
        env = {"HOME": "/tmp", "TORIL_URL": url, "TORIL_TOKEN": secret} | env
        return run_toril(*arguments, env=env, cwd=tmp_path, given=given)

    return start


@pytest.fixture
def in_terminal(toril: TorilProcess, tmp_path: Path) -> Iterator[InTerminal]:
    """Runs a command in a terminal, at the shared toril unless told otherwise."""
    with ExitStack() as stack:

        def start(*arguments: str, url: str = toril.url, **env: str) -> Terminal:
            env = {"TORIL_URL": url, "TORIL_TOKEN": TOKEN, "TERM": "xterm-256color"} | env
            return stack.enter_context(Terminal.of_toril(*arguments, cwd=tmp_path, env=env))

        yield start


def said(ran: Ran, status: int = 0) -> str:
    """What a command that ended with this status has printed."""
    assert (ran.returncode, "Traceback" in ran.stderr) == (status, False), ran.stderr + ran.stdout
    return ran.stdout


def document(ran: Ran, status: int = 0) -> Any:
    """The one JSON document that a command has printed."""
    (line,) = said(ran, status).splitlines()
    return json.loads(line)


class TestQueues:
    def test_queues_are_listed_shown_paused_and_resumed(self, run: Run, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, job(1), job(2), job(3, delay=60_000))
        (listed,) = document(run("queues", "--match", queue, "--json"))["queues"]
        assert (listed["name"], listed["counts"]["waiting"], listed["counts"]["delayed"]) == (queue, 2, 1)
        assert said(run("queues", "pause", queue)) == f"{queue} is paused\n"
        head, row = said(run("queues", "ls", "--match", queue)).splitlines()
        assert head.split() == ["QUEUE", "WAITING", "ACTIVE", "DELAYED", "COMPLETED", "FAILED"]
        assert row.split() == [queue, "2", "0", "1", "0", "0", "paused"]
        assert document(run("queues", "resume", queue, "--json")) == {"queue": queue, "paused": False}
        assert document(run("queues", "show", queue, "--json"))["paused"] is False
        assert "running" in said(run("queues", "show", queue))

    def test_no_command_makes_a_queue_that_was_misspelled(self, run: Run, gateway: Gateway, queue: str) -> None:
        gateway.add_one(queue)
        wrong = f"{queue[:-1]}_"
        for command in (("queues", "show"), ("queues", "pause"), ("jobs", "ls"), ("jobs", "tail")):
            ran = run(*command, wrong)
            assert said(ran, 1) == ""
            assert ran.stderr == f"toril: no queue is called '{wrong}'; did you mean {queue}?\n"
        assert gateway.http.get(f"/queues/{wrong}").status_code == 404

    def test_a_name_is_found_and_completed_among_thousands(
        self, run: Run, start_valkey: StartValkey, start_toril: StartToril, queue: str
    ) -> None:
        valkey = start_valkey()
        with valkey.client() as client, client.pipeline(transaction=False) as pipe:
            for number in range(1_100):
                pipe.hset(f"bull:!{number}:meta", "opts.maxLenEvents", "10000")
            pipe.execute()
        toril = start_toril(valkey)
        for name in (f"{queue}-orders", f"{queue}[1]"):
            toril.gateway.add_one(name)
        first = toril.client.get("/queues", params={"limit": 1000}).json()["queues"]
        assert {found["name"][0] for found in first} == {"!"}, "what comes first by name does not help"
        for wrong, right in (("-order", "-orders"), ("-0rders", "-orders"), ("[2]", "[1]")):
            ran = run("queues", "show", f"{queue}{wrong}", url=toril.url)
            assert said(ran, 1) == ""
            assert ran.stderr.endswith(f"; did you mean {queue}{right}?\n")
        for beginning, whole in (("-or", "-orders"), ("[", "[1]")):
            words = {"COMP_WORDS": f"toril queues show {queue}{beginning}", "COMP_CWORD": "3"}
            ran = run(url=toril.url, _TORIL_COMPLETE="bash_complete", **words)
            assert said(ran).splitlines() == [f"plain,{queue}{whole}"]

    def test_a_terminal_gets_colours_and_a_file_gets_none(
        self, run: Run, in_terminal: InTerminal, gateway: Gateway, queue: str
    ) -> None:
        gateway.add_one(queue)
        said(run("queues", "pause", queue))
        for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            terminal = in_terminal("queues", "ls", "--match", queue, **env)
            assert terminal.ended() == 0
            assert ("\x1b[33mpaused" in terminal.printed) is coloured
        assert "\x1b" not in said(run("queues", "ls", "--match", queue, TERM="xterm-256color"))


class TestJobs:
    def test_a_job_is_added_as_it_was_written_and_shown(self, run: Run, gateway: Gateway, queue: str) -> None:
        added = run(
            "jobs", "add", queue, "charge", "--data", "-", "--attempts", "3", "--delay", "5m", given='{"a": 1.10}'
        )
        job_id = said(added).strip()
        assert '"data":{"a": 1.10}' in gateway.http.get(f"/queues/{queue}/jobs/{job_id}").text
        shown = document(run("jobs", "show", queue, job_id, "--json"))
        assert (shown["state"], shown["opts"]["attempts"], shown["delay"]) == ("delayed", 3, 300_000)
        for part in ("charge", "delayed", "5m", '"a": 1.1'):
            assert part in said(run("jobs", "show", queue, job_id))

    def test_the_state_of_each_job_is_listed(
        self, run: Run, gateway: Gateway, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        gateway.add(queue, job({"n": 1}, "one"), job({"n": 2}, "two", delay=60_000))
        gateway.register(queue, start_endpoint(lambda _: respond(500, "Broken down")).url)
        gateway.wait_for_counts(queue, failed=1)
        listed = document(run("jobs", "ls", queue, "--json"))["jobs"]
        assert [(one["name"], one["state"]) for one in listed] == [("two", "delayed"), ("one", "failed")]
        found = document(run("jobs", "ls", queue, "--where", "data.n = 2", "--json"))["jobs"]
        assert [one["name"] for one in found] == ["two"]
        assert "Broken down" in said(run("jobs", "ls", queue, "--state", "failed"))
        shown = said(run("jobs", "show", queue, "1"))
        assert "Broken down" in shown
        assert "OUTCOME" in shown
        assert "Expected a value behind =" in run("jobs", "ls", queue, "--where", "data.n =").stderr

    def test_failed_jobs_are_retried_and_jobs_removed(
        self, run: Run, gateway: Gateway, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        gateway.register(queue, start_endpoint(lambda _: respond(500, "No")).url)
        gateway.add(queue, *[job(number) for number in range(30)])
        gateway.wait_for_counts(queue, failed=30)
        gateway.unregister(queue)
        assert said(run("jobs", "retry", queue, "--all", "--dry-run")) == "30 jobs would be retried\n"
        assert said(run("jobs", "retry", queue, "1")) == "1 job retried\n"
        done = document(run("jobs", "retry", queue, "--all", "--json"))
        assert (done["done"], done["refused"]) == (29, 0)
        gateway.wait_for_counts(queue, waiting=30, failed=0)
        ran = run("jobs", "rm", queue, "1", "no-such-job")
        assert said(ran, 1) == "1 job removed, 1 refused\n"
        assert "no-such-job: job_not_found" in ran.stderr
        assert "give --yes" in run("jobs", "rm", queue, "--all").stderr
        assert gateway.counts(queue)["waiting"] == 29
        assert said(run("jobs", "rm", queue, "--all", "--yes")) == "29 jobs removed\n"

    def test_a_person_is_asked_before_jobs_are_removed(
        self, in_terminal: InTerminal, gateway: Gateway, queue: str
    ) -> None:
        gateway.add(queue, job(1), job(2))
        for answer, status, left in (("n", 130, 2), ("y", 0, 0)):
            terminal = in_terminal("jobs", "rm", queue, "--all")
            terminal.wait_for("for good? [y/N]")
            terminal.type(f"{answer}\n")
            assert terminal.ended() == status
            assert gateway.counts(queue)["waiting"] == left

    def test_a_terminal_shows_how_far_a_long_action_is(
        self, in_terminal: InTerminal, gateway: Gateway, queue: str
    ) -> None:
        gateway.add(queue, *[job(number) for number in range(500)])
        terminal = in_terminal("jobs", "rm", queue, "--all", "--yes")
        assert terminal.ended() == 0
        assert f"remove jobs of {queue}" in terminal.printed
        assert "500 jobs removed" in terminal.printed

    def test_what_others_have_stored_cannot_change_the_terminal(
        self, in_terminal: InTerminal, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        gateway.add_one(queue)
        store.hset(f"bull:{queue}:1", "name", "char\x1b[2J[red]ge\r")
        for command in (("jobs", "ls", queue), ("jobs", "show", queue, "1")):
            terminal = in_terminal(*command)
            assert terminal.ended() == 0
            assert r"char\x1b[2J[red]ge\r" in terminal.printed

    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            (("add", "{}", "charge", "--data", "{"), "--data: "),
            (("add", "{}", "charge", "--data", "@nowhere.json"), "nowhere.json"),
            (("add", "{}", "charge", "--opts", "[1]"), "--opts must be a JSON object"),
            (("add", "{}", "charge", "--delay", "soon"), "--delay: 'soon' is not a duration"),
            (("retry", "{}"), "give either ids, or --all"),
            (("retry", "{}", "1", "--all"), "give either ids, or --all"),
            (("rm", "{}", "--all", "--where", "data.a = 1", "--yes"), "exclude each other"),
            (("ls", "{}", "--state", "lost"), "'lost' is not one of"),
            (("lst", "{}"), "no command is called 'lst'; did you mean ls?"),
        ],
    )
    def test_wrong_arguments_are_refused(self, run: Run, queue: str, arguments: tuple[str, ...], fault: str) -> None:
        ran = run("jobs", *(part.replace("{}", queue, 1) if part == "{}" else part for part in arguments))
        assert said(ran, 2) == ""
        assert fault in ran.stderr


class TestTails:
    def test_events_are_lines_of_json_for_scripts(
        self, gateway: Gateway, new_queue: Callable[[], str], in_terminal: InTerminal
    ) -> None:
        one, two = sorted((new_queue(), new_queue()))
        terminal = in_terminal("events", "tail", one, two, "--json", "--count", "2")
        terminal.wait_for(f"follows {one}, {two}")
        gateway.add_one(two, name="charge")
        assert terminal.ended() == 0
        told = [json.loads(line) for line in terminal.printed.splitlines() if line.startswith("{")]
        assert [event["event"] for event in told] == ["added", "waiting"]
        assert [event["data"]["queue"] for event in told] == [two, two]

    @pytest.mark.parametrize("ending", [(200, "completed", 0), (500, "failed", 1)])
    def test_the_tail_of_a_job_ends_with_it(
        self,
        gateway: Gateway,
        queue: str,
        in_terminal: InTerminal,
        run: Run,
        start_endpoint: StartEndpoint,
        ending: tuple[int, str, int],
    ) -> None:
        status, word, code = ending
        job_id, other = gateway.add_one(queue), gateway.add_one(queue)
        terminal = in_terminal("jobs", "tail", queue, job_id)
        terminal.wait_for(f"follows {queue}")
        gateway.register(queue, start_endpoint(lambda _: respond(status, "As it is")).url)
        assert terminal.ended() == code
        assert word in terminal.printed
        gateway.finished(queue, other)
        assert word in said(run("jobs", "tail", queue, other), code), "it had ended before"

    def test_a_tail_goes_on_where_it_was_when_the_gateway_is_back(
        self, start_valkey: StartValkey, start_toril: StartToril, in_terminal: InTerminal
    ) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey, port=(port := free_port()))
        toril.gateway.add_one("orders", name="first")
        terminal = in_terminal("jobs", "tail", "orders", url=toril.url)
        terminal.wait_for("follows orders")
        toril.gateway.add_one("orders", name="second")
        terminal.wait_for("name=second")
        toril.kill()
        terminal.wait_for("connects again")
        again = start_toril(valkey, port=port)
        again.gateway.add_one("orders", name="third")
        terminal.wait_for("name=third")
        assert terminal.printed.count("name=second") == 1
        assert "name=first" not in terminal.printed
        terminal.press_ctrl_c()
        assert terminal.ended() == 0


class TestWorkersAndSchedulers:
    def test_workers_are_listed_shown_paused_and_resumed(
        self, run: Run, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        gateway.register(queue, endpoint.url)
        found = {one["queue"]: one for one in document(run("workers", "--json"))["workers"]}
        assert found[queue] == {"queue": queue, "url": endpoint.url, "state": "running"}
        said(run("workers", "pause", queue))
        assert document(run("workers", "show", queue, "--json"))["state"] == "paused"
        said(run("workers", "resume", queue))
        assert "running" in said(run("workers", "show", queue))
        assert (
            f"no worker is registered for 'x{queue}'; did you mean {queue}?"
            in run("workers", "show", f"x{queue}").stderr
        )
        assert said(run("workers", "ls", "--connected"))

    def test_schedulers_are_listed_shown_and_removed(self, run: Run, gateway: Gateway, queue: str) -> None:
        document_ = {"every": 3_600_000, "template": {"name": "report"}}
        answer = gateway.http.put(f"/queues/{queue}/schedulers/hourly", json=document_)
        assert answer.status_code == 200, answer.text
        (listed,) = document(run("schedulers", "--queue", queue, "--json"))["schedulers"]
        assert (listed["queue"], listed["id"]) == (queue, "hourly")
        assert "every 1h" in said(run("schedulers", "ls", "--queue", queue))
        assert "report" in said(run("schedulers", "show", queue, "hourly"))
        said(run("schedulers", "rm", queue, "hourly"))
        assert "Scheduler not found" in run("schedulers", "rm", queue, "hourly").stderr


class TestGroups:
    def test_groups_are_listed_shown_limited_and_reset(self, run: Run, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job(1, group={"id": group}) for group in ("acme", "acme", "mole/1")))
        listed = document(run("groups", "ls", queue, "--json"))["groups"]
        assert [(one["id"], one["waiting"]) for one in listed] == [("acme", 2), ("mole/1", 1)]
        assert [one["id"] for one in document(run("groups", "ls", queue, "--match", "m*", "--json"))["groups"]] == [
            "mole/1"
        ]
        said(run("groups", "set", queue, "mole/1", "--concurrency", "2", "--limit", "100/1m"))
        found = document(run("groups", "set", queue, "mole/1", "--weight", "3", "--max-waiting", "7", "--json"))
        limit = {"max": 100, "duration": 60_000}
        assert found["limits"] == {"concurrency": 2, "limit": limit, "weight": 3, "max_waiting": 7}, (
            "what was set stays"
        )
        shown = said(run("groups", "show", queue, "mole/1"))
        assert shown == said(run("groups", "set", queue, "mole/1", "--weight", "3"))
        facts = dict(line.strip().split(maxsplit=1) for line in shown.splitlines())
        assert (facts["group"], facts["waiting"], facts["concurrency"]) == ("mole/1", "1", "2")
        assert facts["limit"] == "100 per 1m"
        rows = said(run("groups", "ls", queue)).splitlines()
        assert [row.split() for row in rows[1:]] == [
            ["acme", "2", "0", "1"],
            ["mole/1", "1", "0", "2", "100", "per", "1m", "3"],
        ]
        found = document(run("groups", "set", queue, "mole/1", "--limit", "none", "--json"))
        assert (found["limits"]["limit"], found["limits"]["concurrency"]) == (None, 2)
        assert said(run("groups", "reset", queue, "mole/1")) == f"mole/1 of {queue} has no limits now\n"
        assert not any(document(run("groups", "show", queue, "mole/1", "--json"))["limits"].values())

    def test_the_limits_of_the_worker_are_told_from_those_of_the_group(
        self, run: Run, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        gateway.register(queue, endpoint.url, group={"concurrency": 4})
        gateway.add_one(queue, group={"id": "acme"})
        gateway.wait_for_counts(queue, completed=1)
        assert "4 (of the worker)" in said(run("groups", "show", queue, "acme"))
        assert "of the worker" not in said(run("groups", "set", queue, "acme", "--concurrency", "4"))

    def test_a_group_is_paused_resumed_and_drained(self, run: Run, gateway: Gateway, queue: str) -> None:
        gateway.add(queue, *(job(1, group={"id": "acme"}) for _ in range(3)), job(1, group={"id": "mole"}))
        assert said(run("groups", "pause", queue, "acme")) == f"acme of {queue} is paused\n"
        assert "paused" in said(run("groups", "show", queue, "acme"))
        assert said(run("groups", "ls", queue)).splitlines()[1].split() == ["acme", "3", "0", "1", "paused"]
        done = document(run("groups", "resume", queue, "acme", "--json"))
        assert done == {"queue": queue, "group": "acme", "paused": False}
        assert "running" in said(run("groups", "show", queue, "acme"))
        assert "give --yes" in run("groups", "drain", queue, "acme").stderr
        assert gateway.counts(queue)["delayed"] == 4
        assert said(run("groups", "drain", queue, "acme", "--yes")) == "3 jobs removed\n"
        assert gateway.counts(queue)["delayed"] == 1

    def test_limits_may_come_before_the_first_job_and_a_misspelled_queue_is_noted(
        self, run: Run, gateway: Gateway, queue: str
    ) -> None:
        ran = run("groups", "set", queue, "acme", "--concurrency", "1", "--json")
        assert document(ran)["limits"]["concurrency"] == 1
        assert f"no queue is called '{queue}'" in ran.stderr
        assert [one["id"] for one in document(run("groups", "ls", queue, "--json"))["groups"]] == ["acme"]
        document(run("groups", "show", queue, "acme", "--json"))
        document(run("groups", "reset", queue, "acme", "--json"))
        for command in (("ls",), ("show", "acme"), ("drain", "acme", "--yes")):
            ran = run("groups", command[0], queue, *command[1:])
            assert said(ran, 1) == ""
            assert f"no queue is called '{queue}'" in ran.stderr

    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            (("--limit", "100"), "100 is not of the form MAX/DURATION"),
            (("--limit", "0/1m"), "0/1m is not of the form MAX/DURATION"),
            (("--limit", "5/0s"), "5/0s is not of the form MAX/DURATION"),
            (("--weight", "1001"), "1001 is not a whole number from 1 to 1000"),
            (("--concurrency", "0"), "0 is not a whole number of at least 1"),
            ((), "give at least one of --concurrency, --limit"),
        ],
    )
    def test_wrong_limits_are_refused(self, run: Run, queue: str, arguments: tuple[str, ...], fault: str) -> None:
        ran = run("groups", "set", queue, "acme", *arguments)
        assert said(ran, 2) == ""
        assert fault in ran.stderr

    def test_held_jobs_are_released_with_toril_gone(
        self, run: Run, start_valkey: StartValkey, start_toril: StartToril, tmp_path: Path
    ) -> None:
        valkey = start_valkey()
        toril = start_toril(valkey)
        toril.gateway.add("orders", *(job(n, group={"id": f"g/{n % 7}"}) for n in range(250)), job(1, delay=600_000))
        toril.kill()
        (tmp_path / "toril.yaml").write_text(f"redis:\n  url: {valkey.url}\n")

        def release(*arguments: str) -> Ran:
            return run("groups", "release", *arguments, url="http://127.0.0.1:1", REDIS_URL=valkey.url)

        assert said(release("orders", "--dry-run")) == "250 jobs would be released\n"
        ran = run("groups", "release", "orders", "--dry-run", "--json", "--config", str(tmp_path / "toril.yaml"))
        assert document(ran) == {"queue": "orders", "held": 250, "released": 0, "left": 250, "dry_run": True}
        store = valkey.client()
        assert store.llen("bull:orders:wait") == 0
        assert said(release("orders")) == "250 jobs released\n"
        assert (store.llen("bull:orders:wait"), store.zcard("bull:orders:delayed")) == (250, 1)
        assert document(release("orders", "--json"))["released"] == 0
        ran = release("order")
        assert said(ran, 1) == ""
        assert f"no queue is called 'order' in {valkey.url}/0" in ran.stderr
        valkey.stop()
        ran = release("orders")
        assert said(ran, 1) == ""
        assert "Redis" in ran.stderr


@pytest.fixture
def shop(start_valkey: StartValkey, start_toril: StartToril, tmp_path: Path) -> TorilProcess:
    """A toril with a target that refuses all, so that each delivery is a dead letter at once."""
    target = {"url": f"http://127.0.0.1:{free_port()}", "retry": {"max_attempts": 1}, "breaker": "off"}
    file = configuration(tmp_path / "toril.yaml", {"crm": target}, ledger={"url": f"sqlite:///{tmp_path}/ledger.db"})
    return start_toril(start_valkey(), args=("--config", str(file)))


class TestDeliveries:
    def test_targets_are_listed_shown_paused_and_resumed(self, run: Run, shop: TorilProcess) -> None:
        (listed,) = document(run("targets", "--json", url=shop.url))["targets"]
        assert listed["name"] == "crm"
        said(run("targets", "pause", "crm", url=shop.url))
        assert "paused" in said(run("targets", url=shop.url))
        said(run("targets", "resume", "crm", url=shop.url))
        assert "running" in said(run("targets", "show", "crm", url=shop.url))
        ran = run("targets", "show", "crn", url=shop.url)
        assert said(ran, 1) == ""
        assert ran.stderr == "toril: no target is called 'crn'; did you mean crm?\n"

    def test_dead_letters_are_listed_replayed_and_purged(self, run: Run, shop: TorilProcess) -> None:
        def call(*arguments: str) -> Ran:
            return run("dead-letters", *arguments, url=shop.url)

        door = Door(shop.gateway)
        red = [door.enqueue("crm", labels={"colour": "red"}) for _ in range(3)]
        blue = door.enqueue("crm", labels={"colour": "blue"})

        def dead() -> set[str]:
            return {one["job_id"] for one in document(call("ls", "crm", "--json"))["jobs"]}

        eventually(lambda: dead() == {*red, blue}, what="all to be dead letters")
        assert "ECONNREFUSED" in said(call("ls", "crm"))
        planned = document(call("replay", "crm", "--label", "colour=red", "--dry-run", "--json"))
        assert set(planned["job_ids"]) == set(red)
        assert door.job(red[0])["attempts_made"] == 1
        assert said(call("replay", "crm", "--label", "colour=red")) == "3 dead letters replayed\n"
        eventually(lambda: all(len(door.job(one)["attempts"]) == 2 for one in red), what="the replays")
        eventually(lambda: dead() == {*red, blue}, what="all to be dead letters again")
        ran = call("purge", "crm", blue, "01a22d57-1908-7753-ade2-65e45bfd94b2")
        assert said(ran, 1) == "1 dead letter purged\n"
        assert "is no dead letter of crm" in ran.stderr
        assert said(call("purge", "crm", "--all", "--dry-run")) == "3 dead letters would be purged\n"
        assert "give --yes" in call("purge", "crm", "--all").stderr
        assert dead() == set(red)
        assert said(call("purge", "crm", "--all", "--yes")) == "3 dead letters purged\n"
        assert dead() == set()
        for wrong in (("replay", "crm"), ("replay", "crm", "--label", "red"), ("purge", "crm", red[0], "--all")):
            assert said(call(*wrong), 2) == ""


class TestRefusals:
    def test_a_token_that_is_not_known_is_refused(self, run: Run) -> None:
        ran = run("queues", secret="wrong")
        assert said(ran, 4) == ""
        assert "does not know the token" in ran.stderr
        assert "wrong" not in ran.stderr

    def test_a_token_without_the_right_is_told_what_it_lacks(
        self, run: Run, start_valkey: StartValkey, start_toril: StartToril, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "toril.yaml", token("reader", ["queues:read"], ["orders"]))
        toril = start_toril(start_valkey(), args=("--config", str(file)))
        toril.gateway.add_one("orders")

        def refused(*arguments: str) -> str:
            ran = run(*arguments, url=toril.url, secret="reader-secret")
            assert said(ran, 4) == ""
            return ran.stderr

        assert "the token has not the right to POST /queues/orders/pause" in refused("queues", "pause", "orders")
        assert "GET /workers" in refused("workers")
        assert "not the right" in refused("queues", "show", "others")
        assert [
            one["name"] for one in document(run("queues", "--json", url=toril.url, secret="reader-secret"))["queues"]
        ] == ["orders"]

    def test_a_gateway_that_is_away_or_none_is_named(self, run: Run, endpoint: Endpoint) -> None:
        away = f"http://127.0.0.1:{free_port()}"
        for command in (("queues",), ("jobs", "tail", "orders"), ("jobs", "add", "orders", "charge")):
            ran = run(*command, url=away)
            assert said(ran, 3) == ""
            assert f"{away} cannot be reached: Connection refused" in ran.stderr
        assert "does not answer as a toril does" in run("queues", url=endpoint.url).stderr

    def test_an_invalid_address_is_a_wrong_argument(self, run: Run) -> None:
        assert "is not the URL of a toril" in run("queues", url="ftp://x").stderr
        assert said(run("queues", secret=""), 2) == ""

    def test_a_shell_completes_the_names_of_queues(self, run: Run, gateway: Gateway, queue: str) -> None:
        gateway.add_one(queue)
        words = f"toril queues show {queue[:-2]}"
        ran = run(_TORIL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="3")
        assert f"plain,{queue}" in said(ran).splitlines()
        silent = run(_TORIL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="3", secret="wrong")
        assert said(silent).strip() == silent.stderr == ""
