"""What BullMQ Proxy's own clients, in TypeScript (Bun) and in Go, send and read, replayed frame by frame.

The frames are written out as these clients send them, and the answers are looked at where these clients look: an answer
is found by its `id`, and both `ok` and `err` are read in `data`.

- The Bun client writes compact JSON without a line end. Its ids are UUIDs, `undefined` arguments arrive as `null`, and
  the token stands in the URL, behind `events`, whose commas are percent-encoded.
- The Go client writes JSON with a line end and with `<`, `>` and `&` escaped. Its ids are numbers. The token stands in
  the URL (older versions) or in `Authorization`.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import redis
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.gateway import TOKEN, Gateway
from tests.support.sockets import SocketClient, socket_to
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

BUN_ID = "b5f3c2a1-7d3e-4f0a-9a51-0d3f1c9e7a42"
BUN_TRACE = "Error: no money\n    at charge (/app/worker.ts:7:9)\n    at callProcessor (/app/queue-worker.ts:52:26)"
STATES = {"waiting", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children"}


def bun_frame(fn: str, args: str, number: str = BUN_ID) -> str:
    """A command as `JSON.stringify` writes it."""
    return f'{{"id":"{number}","data":{{"fn":"{fn}","args":{args}}}}}'


def go_frame(fn: str, args: str, number: int = 2) -> str:
    """A command as Go's `json.Encoder` writes it; the first number is 2."""
    return f'{{"id":{number},"data":{{"fn":"{fn}","args":{args}}}}}\n'


def job_frame(number: int, payload: str) -> str:
    """A job as its worker gets it."""
    return f'{{"id":{number},"data":{{"type":"process","payload":{payload}}}}}'


@contextmanager
def bun(toril: TorilProcess, path: str, query: str = "") -> Iterator[SocketClient]:
    """Connect as the Bun client does."""
    with socket_to(toril.url, f"/ws/queues/{path}?{query}token={TOKEN}", None) as socket:
        yield socket


@contextmanager
def go(toril: TorilProcess, path: str, *, token_in_url: bool = False) -> Iterator[SocketClient]:
    """Connect as the Go client does, which cannot compress."""
    query = f"?token={TOKEN}" if token_in_url else ""
    token = None if token_in_url else TOKEN
    with socket_to(toril.url, f"/ws/queues/{path}{query}", token, compression=None) as socket:
        yield socket


def raw(socket: SocketClient) -> str:
    """The next frame as it is. Both clients parse text; neither is ready for binary."""
    frame = socket.connection.recv(timeout=10)
    assert isinstance(frame, str)
    return frame


def asked(socket: SocketClient, frame: str | bytes) -> Any:
    """Send a frame; what `data` of its answer holds."""
    socket.send(frame)
    answer = json.loads(raw(socket))
    assert answer["id"] == json.loads(frame)["id"]
    return answer["data"]


def refused(socket: SocketClient, frame: str | bytes, message: str) -> None:
    """Send a frame, which must be refused in these words, where the clients look for them."""
    socket.send(frame)
    answer = json.loads(raw(socket))
    assert answer["id"] == json.loads(frame)["id"]
    # Bun: `const { ok, err } = <data>` throws without data; Go: an answer without data.err is a success.
    error = answer.get("data", {}).get("err")
    assert error is not None, f"no data.err in {answer}"
    assert error["message"] == message
    assert error["stack"] == ""


def places(store: redis.Redis, queue: str) -> dict[str, str]:
    """The stream id of the last event of each name."""
    entries: Any = store.xrange(f"bull:{queue}:events")
    return {fields["event"]: stream_id for stream_id, fields in entries}


class TestLettingIn:
    """The token by `?token=` (Bun, older Go) and by `Authorization` (Go)."""

    @pytest.mark.parametrize("kind", ["", "/process/1", "/events"])
    def test_a_token_in_the_header_or_the_url_opens_every_socket(
        self, toril: TorilProcess, queue: str, kind: str
    ) -> None:
        query = "events=completed&" if kind == "/events" else ""
        with bun(toril, queue + kind, query), go(toril, queue + kind), go(toril, queue + kind, token_in_url=True):
            pass

    @pytest.mark.parametrize("kind", ["", "/process/1", "/events"])
    @pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?Token=" + TOKEN])
    def test_a_wrong_token_in_the_url_is_401_before_the_handshake(
        self, toril: TorilProcess, queue: str, kind: str, query: str
    ) -> None:
        with pytest.raises(InvalidStatus) as caught, socket_to(toril.url, f"/ws/queues/{queue}{kind}{query}", None):
            pass
        assert (caught.value.response.status_code, caught.value.response.body) == (401, b"Unauthorized")

    @pytest.mark.parametrize("kind", ["", "/process/1", "/events"])
    @pytest.mark.parametrize(
        "value", ["Bearer", "Bearer ", "Bearer wrong", TOKEN, f"bearer  {TOKEN}", f"Basic {TOKEN}"]
    )
    def test_a_wrong_header_is_401_before_the_handshake(
        self, toril: TorilProcess, queue: str, kind: str, value: str
    ) -> None:
        with (
            pytest.raises(InvalidStatus) as caught,
            connect(
                toril.url.replace("http", "ws") + f"/ws/queues/{queue}{kind}",
                additional_headers={"authorization": value},
                proxy=None,
            ),
        ):
            pass
        assert (caught.value.response.status_code, caught.value.response.body) == (401, b"Unauthorized")

    def test_a_queue_name_with_a_space_as_bun_encodes_it(self, toril: TorilProcess, queue: str) -> None:
        with bun(toril, quote(f"{queue} test")) as socket:
            added = asked(socket, bun_frame("add", '["test",{"foo":"bar"},null]'))["ok"]
            assert added["queueQualifiedName"] == f"bull:{queue} test"


class TestAdd:
    """`add [name, data, opts|null]`"""

    @pytest.mark.parametrize("binary", [False, True])
    def test_bun_adds_a_job_and_reads_all_of_it(
        self, toril: TorilProcess, gateway: Gateway, queue: str, binary: bool
    ) -> None:
        frame = bun_frame("add", '["test",{"foo":"bar","jobIndex":0},null]')
        began_ms = int(time.time() * 1000)
        with bun(toril, queue) as socket:
            socket.send(frame.encode() if binary else frame)
            answer = json.loads(raw(socket))
        timestamp = answer["data"]["ok"].pop("timestamp")
        assert began_ms - 1000 <= timestamp <= time.time() * 1000 + 1000
        assert answer == {
            "id": BUN_ID,
            "data": {
                "ok": {
                    "id": "1",
                    "name": "test",
                    "data": {"foo": "bar", "jobIndex": 0},
                    "opts": {"attempts": 0},
                    "progress": 0,
                    "returnvalue": None,
                    "stacktrace": None,
                    "delay": 0,
                    "priority": 0,
                    "attemptsStarted": 0,
                    "attemptsMade": 0,
                    "stalledCounter": 0,
                    "queueQualifiedName": f"bull:{queue}",
                }
            },
        }
        assert gateway.job(queue, "1")["data"] == {"foo": "bar", "jobIndex": 0}

    @pytest.mark.parametrize("binary", [False, True])
    def test_go_adds_a_job_that_fits_its_struct(self, toril: TorilProcess, queue: str, binary: bool) -> None:
        frame = '{"id":2,"data":{"fn":"add","args":["test",{"foo":"a \\u003c b \\u0026 c"},null]}}\n'
        with go(toril, queue) as socket:
            job = asked(socket, frame.encode() if binary else frame)["ok"]
        assert job["data"] == {"foo": "a < b & c"}
        for name in ("attemptsMade", "delay", "progress", "timestamp"):  # `int` and `int64` there
            assert type(job[name]) is int
        for name in ("id", "name", "queueQualifiedName"):
            assert type(job[name]) is str

    def test_options_may_be_an_object_null_or_left_out(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with bun(toril, queue) as socket:
            with_options = asked(
                socket, '{"id":0,"data":{"fn":"add","args":["later",{},{"delay":60000,"attempts":3,"priority":2}]}}'
            )["ok"]
            assert with_options["opts"] == {"delay": 60000, "attempts": 3, "priority": 2}
            assert (with_options["delay"], with_options["priority"]) == (60000, 2)
            for frame in (
                '{"id":1,"data":{"fn":"add","args":["now",{},null]}}',
                '{"id":2,"data":{"fn":"add","args":["now",{},{}]}}',
                '{"id":3,"data":{"fn":"add","args":["now",{}]}}',
            ):
                assert asked(socket, frame)["ok"]["opts"] == {"attempts": 0}
        assert gateway.counts(queue) == {
            "waiting": 3, "paused": 0, "active": 0, "completed": 0, "failed": 0, "delayed": 1,
        }  # fmt: skip

    @pytest.mark.parametrize("data", ["null", "0", "false", '""', '"text"', "[1,2]", "1.50", "12345678901234567890123"])
    def test_any_json_is_data_and_comes_back_as_it_was(self, toril: TorilProcess, queue: str, data: str) -> None:
        with go(toril, queue) as socket:
            socket.send(go_frame("add", f'["test",{data},null]'))
            assert f'"data":{data},' in raw(socket).replace('"data":{"ok"', "", 1)
        with bun(toril, f"{queue}/process/1") as worker:
            assert raw(worker) == job_frame(0, data)


class TestPauseAndResume:
    """Both answer `data: {}`, which is what is left of `{"ok": undefined}`."""

    def test_pause_and_resume_take_effect_and_answer_an_empty_object(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with bun(toril, queue) as socket, go(toril, queue) as other, bun(toril, f"{queue}/process/1") as worker:
            socket.send(bun_frame("pause", "[]"))
            assert raw(socket) == f'{{"id":"{BUN_ID}","data":{{}}}}'
            asked(other, '{"id":2,"data":{"fn":"add","args":["test",1,null]}}\n')
            counts = asked(socket, '{"id":1,"data":{"fn":"getJobCounts","args":[]}}')["ok"]
            assert counts["paused"] + counts["waiting"] == 1  # BullMQ 5 sets it aside, BullMQ 6 leaves it where it is
            other.send('{"id":3,"data":{"fn":"pause","args":[]}}\n')
            assert raw(other) == '{"id":3,"data":{}}'
            assert worker.is_quiet()
            socket.send(bun_frame("resume", "[]"))
            assert raw(socket) == f'{{"id":"{BUN_ID}","data":{{}}}}'
            worker.finish(worker.jobs(1)[0])
            gateway.wait_for_counts(queue, completed=1, paused=0)


class TestGetters:
    """`getJobs`, `getJobCounts`, `getJobLogs`, `getWorkers`"""

    def test_jobs_are_listed_with_an_inclusive_end_in_both_orders(self, toril: TorilProcess, queue: str) -> None:
        with bun(toril, queue) as socket:
            for number in range(5):
                asked(socket, bun_frame("add", f'["test",{number},null]'))
            for window, ids in (
                ("0,100,true", ["1", "2", "3", "4", "5"]),
                ("0,100,false", ["5", "4", "3", "2", "1"]),
                ("0,0,true", ["1"]),
                ("1,2,true", ["2", "3"]),
                ("1,2,false", ["4", "3"]),
                ("0,-1,true", ["1", "2", "3", "4", "5"]),
                ("7,9,true", []),
            ):
                frame = bun_frame("getJobs", f'["waiting",{window}]')
                jobs = asked(socket, frame)["ok"]
                assert [job["id"] for job in jobs] == ids, window
            assert {job["queueQualifiedName"] for job in asked(socket, frame)["ok"]} <= {f"bull:{queue}"}

    @pytest.mark.parametrize("state", sorted(STATES - {"paused"}))
    def test_every_state_of_the_clients_can_be_listed(self, toril: TorilProcess, queue: str, state: str) -> None:
        with go(toril, queue) as socket:
            frame = go_frame("getJobs", f'["{state}",0,100,true]')
            assert asked(socket, frame) == {"ok": []}

    def test_the_waiting_list_includes_jobs_of_a_paused_queue(self, toril: TorilProcess, queue: str) -> None:
        """BullMQ's getJobs takes the paused list along with `waiting`."""
        with bun(toril, queue) as socket:
            asked(socket, '{"id":0,"data":{"fn":"pause","args":[]}}')
            asked(socket, '{"id":1,"data":{"fn":"add","args":["test",1,null]}}')
            jobs = asked(socket, '{"id":2,"data":{"fn":"getJobs","args":["waiting",0,9,true]}}')["ok"]
            assert [job["id"] for job in jobs] == ["1"]

    def test_completed_jobs_are_listed_with_their_results(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with bun(toril, queue) as socket, bun(toril, f"{queue}/process/1") as worker:
            asked(socket, '{"id":0,"data":{"fn":"add","args":["test",1,null]}}')
            worker.finish(worker.jobs(1)[0], {"sum": 3})
            gateway.finished(queue, "1")
            (job,) = asked(socket, '{"id":1,"data":{"fn":"getJobs","args":["completed",0,100,true]}}')["ok"]
            assert (job["id"], job["returnvalue"], job["attemptsMade"]) == ("1", {"sum": 3}, 1)
            assert job["finishedOn"] >= job["processedOn"] >= job["timestamp"]

    def test_counts_are_of_eight_states_unless_some_are_named(self, toril: TorilProcess, queue: str) -> None:
        with bun(toril, queue) as socket:
            asked(socket, '{"id":0,"data":{"fn":"add","args":["test",1,null]}}')
            asked(socket, '{"id":1,"data":{"fn":"add","args":["test",1,{"delay":60000}]}}')
            asked(socket, '{"id":2,"data":{"fn":"add","args":["test",1,{"priority":9}]}}')
            counts = asked(socket, bun_frame("getJobCounts", "[]"))
            some = {"waiting": 1, "delayed": 1, "prioritized": 1}
            assert counts == {"ok": dict.fromkeys(STATES, 0) | some}
            counts = asked(socket, '{"id":3,"data":{"fn":"getJobCounts","args":["delayed","failed"]}}')
            assert counts == {"ok": {"delayed": 1, "failed": 0}}

    def test_get_job_logs_returns_a_window_of_the_log(self, toril: TorilProcess, gateway: Gateway, queue: str) -> None:
        with bun(toril, queue) as socket, socket_to(toril.url, f"/ws/queues/{queue}/process/1?payload=job") as worker:
            asked(socket, '{"id":0,"data":{"fn":"add","args":["test",1,null]}}')
            (message,) = worker.jobs(1)
            for line in ("one", "two", "three"):
                worker.send({"id": message["id"], "data": {"log": line}})
            worker.finish(message)
            gateway.finished(queue, "1")
            for args, lines in (
                ('["1",0,-1]', ["one", "two", "three"]),
                ('["1",0,0]', ["one"]),
                ('["1",1,2]', ["two", "three"]),
            ):
                frame = bun_frame("getJobLogs", args)
                assert asked(socket, frame) == {"ok": {"logs": lines, "count": 3}}, args
            frame = bun_frame("getJobLogs", '["404",0,-1]')
            assert asked(socket, frame) == {"ok": {"logs": [], "count": 0}}

    def test_get_job_logs_without_a_window_returns_the_whole_log(self, toril: TorilProcess, queue: str) -> None:
        """`getJobLogs(id)` of the Bun client: start and end are optional there, and `undefined` becomes `null`."""
        with bun(toril, queue) as socket:
            for args in ('["1",null,null]', '["1",0,null]', '["1"]'):
                frame = bun_frame("getJobLogs", args)
                assert asked(socket, frame) == {"ok": {"logs": [], "count": 0}}, args

    def test_get_workers_lists_the_workers_while_they_work(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with bun(toril, queue) as socket, go(toril, f"{queue}/process/5", token_in_url=True) as worker:
            assert asked(socket, bun_frame("getWorkers", "[]")) == {"ok": []}
            gateway.add_one(queue)
            worker.jobs(1)
            workers = eventually(lambda: asked(socket, bun_frame("getWorkers", "[]"))["ok"])
            assert {found["name"] for found in workers} == {queue}


class TestIds:
    """Whatever a client takes for an id comes back byte for byte."""

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize(
        "number",
        [
            "0", "-1", "1.5", "1e3", "1E-7", "0.10", "9007199254740993", "123456789012345678901234567890", "null",
            "true", '""', '"x"', f'"{BUN_ID}"', '"\\u003cü\\n"', '"grüße 🐂"', "[]", '[1,{"a":null}]', '{"n":1.0}',
        ],
    )  # fmt: skip
    def test_any_command_id_is_returned_in_the_reply(
        self, toril: TorilProcess, queue: str, number: str, binary: bool
    ) -> None:
        with bun(toril, queue) as socket:
            frame = f'{{"id":{number},"data":{{"fn":"getJobCounts","args":["failed"]}}}}'
            socket.send(frame.encode() if binary else frame)
            assert raw(socket) == f'{{"id":{number},"data":{{"ok":{{"failed":0}}}}}}'

    def test_a_command_id_after_the_data_is_accepted(self, toril: TorilProcess, queue: str) -> None:
        with bun(toril, queue) as socket:
            socket.send('{"data":{"args":["failed"],"fn":"getJobCounts"},"id":7}')
            assert raw(socket) == '{"id":7,"data":{"ok":{"failed":0}}}'

    def test_hundreds_of_commands_on_their_way_are_all_answered_once(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        """`Promise.all` over the Bun client's calls, and a goroutine for each of the Go client's."""
        with bun(toril, queue) as one, go(toril, queue) as other:
            for number in range(500):
                one.send(bun_frame("add", f'["test",{{"jobIndex":{number}}},null]', f"id-{number}"))
                other.send(go_frame("add", '["test",{"foo":"bar"},null]', number + 2))
            answers = [json.loads(raw(one)) for _ in range(500)]
            assert {answer["id"]: answer["data"]["ok"]["data"] for answer in answers} == {
                f"id-{number}": {"jobIndex": number} for number in range(500)
            }
            answered = [json.loads(raw(other)) for _ in range(500)]
            assert sorted(answer["id"] for answer in answered) == list(range(2, 502))
            ids = [answer["data"]["ok"]["id"] for answer in answers + answered]
            assert len(set(ids)) == 1000
        assert gateway.counts(queue)["waiting"] == 1000


class TestRefusals:
    """`err` is an object with `message` and `stack`, in `data`, where both clients look for it."""

    @pytest.mark.parametrize(
        "frame",
        [
            bun_frame("updateJobProgress", '["1",50]'),
            bun_frame("addJobLog", '["1","line",null]'),
            bun_frame("obliterate", "[]"),
            bun_frame("constructor", "[]"),
            bun_frame("add", '["test"]'),
            bun_frame("add", '["test",{},null,1]'),
            bun_frame("getJobs", '["waiting","0","1",true]'),
            bun_frame("pause", "[true]"),
            '{"id":2,"data":{"fn":"AddJob","args":["grüße",null,null]}}\n',
            '{"id":2,"data":{"fn":"pause","args":null}}\n',
            '{"id":2,"data":null}\n',
            '{"id":2}\n',
        ],
    )
    @pytest.mark.parametrize("binary", [False, True])
    def test_a_message_that_is_no_command_is_repeated_in_the_error(
        self, toril: TorilProcess, queue: str, frame: str, binary: bool
    ) -> None:
        with bun(toril, queue) as socket:
            refused(socket, frame.encode() if binary else frame, f"Invalid message {frame}")
            assert asked(socket, '{"id":9,"data":{"fn":"getJobCounts","args":["failed"]}}') == {"ok": {"failed": 0}}

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ('["test",1,{"jobId":"123"}]', "Custom Id cannot be integers"),
            ('["test",1,{"jobId":"a:b"}]', "Custom Id cannot contain :"),
            ('["test",1,{"attempts":-1}]', "Invalid attempts -1"),
            ('["test",1,{"priority":0.5}]', "Invalid priority 0.5"),
        ],
    )
    def test_a_refusal_by_bullmq_is_an_object_with_bullmqs_message(
        self, toril: TorilProcess, queue: str, args: str, message: str
    ) -> None:
        with go(toril, queue) as socket:
            refused(socket, go_frame("add", args), message)

    @pytest.mark.parametrize("garbage", ["", "x", "[", "{}}", '{"id":1,', b"\xff\xfe", b"\x00", b""], ids=repr)
    def test_invalid_json_gets_no_reply_and_the_socket_stays_open(
        self, toril: TorilProcess, queue: str, garbage: str | bytes
    ) -> None:
        with bun(toril, queue) as socket:
            socket.send(garbage)
            socket.send('{"id":2,"data":{"fn":"getJobCounts","args":["failed"]}}\n')
            answers = [json.loads(raw(socket))]
            while answers[-1]["id"] != 2:
                answers.append(json.loads(raw(socket)))
            assert answers[-1]["data"] == {"ok": {"failed": 0}}
            # The clients drop an answer that has no id of theirs.
            assert [answer["id"] for answer in answers[:-1]] in ([], [None])


class TestProcess:
    """`/ws/queues/{queue}/process/{concurrency}`"""

    def test_a_job_is_its_data_and_numbers_count_from_0(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with bun(toril, queue) as socket, go(toril, f"{queue}/process/10", token_in_url=True) as worker:
            for number in range(3):
                asked(socket, bun_frame("add", f'["test",{{"foo":"<bär>","n":{number}}},null]'))
                assert raw(worker) == job_frame(number, f'{{"foo":"<bär>","n":{number}}}')
            for number in (2, 0, 1):
                worker.send(f'{{"id":{number},"data":{{"result":{number * 10}}}}}\n')
            for number in range(3):
                assert gateway.finished(queue, str(number + 1))["returnvalue"] == number * 10

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize(
        ("reply", "result"),
        [
            ('{"id":0,"data":{"result":{"sum":3}}}', {"sum": 3}),
            ('{"id":0,"data":{"result":null}}', None),  # what Bun makes of nothing, 0, "" and false
            ('{"id":0,"data":{"result":null}}\n', None),  # `nil` in Go
            ('{"id":0,"data":{"result":0}}\n', 0),
            ('{"id":0,"data":{"result":""}}\n', ""),
            ('{"id":0,"data":{"result":"a \\u0026 b"}}\n', "a & b"),
            ('{"id":0,"data":{"result":[1,{"a":[]}]}}', [1, {"a": []}]),
            ('{"id":0,"data":{"result":1.5,"took":7},"more":true}', 1.5),
            ('{"id":0,"data":{"result":1,"err":null}}', 1),
            ('{"id":0,"data":{"err":null,"result":1}}', 1),
            ('{"id":0,"err":null,"data":{"result":1}}', 1),
            ('{"id":0,"data":{"result":5,"err":""}}', 5),
            ('{"id":0,"err":"","data":{"result":5}}', 5),
            ('{"id":"0","data":{"result":5}}', 5),
        ],
    )
    def test_a_reply_with_a_result_completes_the_job(
        self, toril: TorilProcess, gateway: Gateway, queue: str, reply: str, result: Any, binary: bool
    ) -> None:
        with bun(toril, f"{queue}/process/1") as worker:
            job_id = gateway.add_one(queue)
            worker.jobs(1)
            worker.send(reply.encode() if binary else reply)
            done = gateway.finished(queue, job_id)
            assert "failedReason" not in done
            assert done["returnvalue"] == result

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (f'{{"id":0,"data":{{"err":{{"message":"no money","stack":{json.dumps(BUN_TRACE)}}}}}}}', "no money"),
            ('{"id":0,"data":{"message":"no money","stack":""}}\n', "no money"),  # Go's JobError has no `err` around it
            ('{"id":0,"data":{"err":"no money"}}', "no money"),
            ('{"id":0,"err":{"message":"no money","stack":""}}', "no money"),
            ('{"id":0,"err":"no money"}', "no money"),
            ('{"id":0,"data":{"result":null,"err":{"message":"no money","stack":""}}}', "no money"),
            ('{"id":0,"data":{"result":1,"err":"no money"}}', "no money"),
            ('{"id":0,"data":{"err":{}}}', None),  # Bun after `throw "text"`
            ('{"id":0,"data":{}}', None),
            ('{"id":0,"data":null}\n', None),
            ('{"id":0}', None),
        ],
    )
    def test_a_reply_without_a_result_fails_the_job(
        self, toril: TorilProcess, gateway: Gateway, queue: str, reply: str, reason: str | None, binary: bool
    ) -> None:
        with bun(toril, f"{queue}/process/1") as worker:
            job_id = gateway.add_one(queue)
            worker.jobs(1)
            worker.send(reply.encode() if binary else reply)
            done = gateway.finished(queue, job_id)
            assert done.get("failedReason") == (reason or "The worker sent neither a result nor an error")
            assert done["returnvalue"] is None
            assert len(done["stacktrace"]) == 1
            assert done["stacktrace"][0]
            assert gateway.counts(queue)["failed"] == 1

    def test_the_stack_of_the_worker_is_the_stack_of_the_job(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with bun(toril, f"{queue}/process/1") as worker:
            job_id = gateway.add_one(queue)
            worker.jobs(1)
            worker.send(f'{{"id":0,"data":{{"err":{{"message":"no money","stack":{json.dumps(BUN_TRACE)}}}}}}}')
            assert gateway.finished(queue, job_id)["stacktrace"] == [BUN_TRACE]

    def test_a_failed_attempt_is_tried_again_under_a_new_number(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with go(toril, f"{queue}/process/1") as worker:
            job_id = gateway.add_one(queue, {"n": 1}, attempts=3)
            for number in range(2):
                assert raw(worker) == job_frame(number, '{"n":1}')
                worker.send(f'{{"id":{number},"data":{{"message":"busy","stack":""}}}}\n')
            assert worker.receive()["id"] == 2
            worker.send('{"id":2,"data":{"result":"done"}}\n')
            done = gateway.finished(queue, job_id)
            assert (done["returnvalue"], done["attemptsMade"]) == ("done", 3)

    def test_workers_are_never_sent_messages_that_the_clients_do_not_expect(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        """Bun's worker throws on a frame without `data`; Go's takes one without an id for job 0."""
        with bun(toril, f"{queue}/process/1") as worker:
            for frame in ("x", "{}", '{"id":0,"data":{"result":1}}', '{"id":77,"data":{"result":1}}', b"\xff", "[1]"):
                worker.send(frame)
            job_id = gateway.add_one(queue)
            (message,) = worker.jobs(1)
            assert message["id"] == 0
            worker.send('{"id":0,"data":{"result":"right"}}')
            worker.send('{"id":0,"data":{"result":"again"}}')
            assert gateway.finished(queue, job_id)["returnvalue"] == "right"
            assert worker.is_quiet()

    def test_bun_works_off_what_it_added_with_a_concurrency_of_20(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        """The Bun client's own test program."""
        with bun(toril, queue) as client, bun(toril, f"{queue}/events", "events=active&") as events:
            for number in range(10):
                client.send(bun_frame("add", f'["test",{{"foo":"bar","jobIndex":{number}}},null]', f"id-{number}"))
            assert len({raw(client) for _ in range(10)}) == 10
            with bun(toril, f"{queue}/process/20") as worker:
                for message in worker.jobs(10):
                    worker.send(f'{{"id":{message["id"]},"data":{{"result":null}}}}')
                gateway.wait_for_counts(queue, completed=10)
            frame = bun_frame("getJobs", '["completed",0,100,true]')
            assert len(asked(client, frame)["ok"]) == 10
            frame = bun_frame("getJobCounts", "[]")
            assert asked(client, frame)["ok"] == dict.fromkeys(STATES, 0) | {"completed": 10}
            active = [events.receive() for _ in range(10)]
            assert {message["data"]["args"][0]["jobId"] for message in active} == {str(n) for n in range(1, 11)}


class TestEvents:
    """`/ws/queues/{queue}/events`"""

    @pytest.mark.parametrize(
        "query", ["events=added,completed&", "events=added%2Ccompleted&", "events=completed,,added,&"]
    )
    def test_event_frames_hold_the_arguments_of_queue_events_listeners(
        self, toril: TorilProcess, gateway: Gateway, queue: str, store: redis.Redis, query: str
    ) -> None:
        with bun(toril, f"{queue}/events", query) as events, bun(toril, f"{queue}/process/1") as worker:
            job_id = gateway.add_one(queue, name="charge")
            worker.finish(worker.jobs(1)[0], {"sum": 3})
            frames = [raw(events), raw(events)]
            ids = places(store, queue)
            assert [json.loads(frame) for frame in frames] == [
                {
                    "id": 0,
                    "data": {"event": "added", "args": [{"jobId": job_id, "name": "charge"}, ids["added"]]},
                },
                {
                    "id": 1,
                    "data": {
                        "event": "completed",
                        "args": [{"jobId": job_id, "returnvalue": {"sum": 3}, "prev": "active"}, ids["completed"]],
                    },
                },
            ]
            assert frames[0].startswith('{"id":0,"data":{"event":"added","args":[')

    def test_every_kind_of_event_has_its_arguments(
        self, toril: TorilProcess, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        names = "waiting,active,progress,failed,delayed,drained,paused,resumed,waiting-children"
        with (
            bun(toril, f"{queue}/events", f"events={quote(names, safe='')}&") as events,
            bun(toril, queue) as commands,
            socket_to(toril.url, f"/ws/queues/{queue}/process/1?payload=job") as worker,
        ):
            job_id = gateway.add_one(queue)
            (message,) = worker.jobs(1)
            worker.send({"id": message["id"], "data": {"progress": {"percent": 5}}})
            worker.send({"id": message["id"], "err": {"message": "no money"}})
            gateway.finished(queue, job_id)
            asked(commands, '{"id":1,"data":{"fn":"pause","args":[]}}')
            asked(commands, '{"id":1,"data":{"fn":"resume","args":[]}}')
            seen: dict[str, list[Any]] = {}
            number = 0
            while "resumed" not in seen:
                frame = events.receive()
                assert (list(frame), frame["id"], list(frame["data"])) == (["id", "data"], number, ["event", "args"])
                seen[frame["data"]["event"]] = frame["data"]["args"]
                number += 1
        ids = places(store, queue)
        assert seen == {
            "waiting": [{"jobId": job_id}, ids["waiting"]],
            "active": [{"jobId": job_id, "prev": "waiting"}, ids["active"]],
            "progress": [{"jobId": job_id, "data": {"percent": 5}}, ids["progress"]],
            "failed": [{"jobId": job_id, "failedReason": "no money", "prev": "active"}, ids["failed"]],
            "drained": [ids["drained"]],
            "paused": [{}, ids["paused"]],
            "resumed": [{}, ids["resumed"]],
        }

    def test_only_subscribed_events_arrive_and_only_new_ones(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        gateway.add_one(queue)
        with (
            bun(toril, f"{queue}/events", "events=waiting&") as events,
            bun(toril, f"{queue}/events", "events=&") as deaf,
        ):
            job_id = gateway.add_one(queue)
            assert events.receive()["data"]["args"][0] == {"jobId": job_id}
            assert events.is_quiet()
            assert deaf.is_quiet()

    @pytest.mark.parametrize("binary", [False, True])
    def test_on_and_off_of_the_guide_subscribe_and_unsubscribe(
        self, toril: TorilProcess, gateway: Gateway, queue: str, binary: bool
    ) -> None:
        with go(toril, f"{queue}/events") as events:

            def say(text: str) -> str:
                events.send(text.encode() if binary else text)
                return raw(events)

            answer = json.loads(say('{"id":2,"data":{"fn":"on","args":["completed","added"]}}\n'))
            assert (answer["id"], "ok" in answer["data"]) == (2, True)
            first = gateway.add_one(queue)
            frame = events.receive()
            assert (frame["id"], frame["data"]["event"], frame["data"]["args"][0]["jobId"]) == (0, "added", first)
            assert "ok" in json.loads(say('{"id":3,"data":{"fn":"off","args":["added"]}}\n'))["data"]
            gateway.add_one(queue)
            assert "ok" in json.loads(say('{"id":4,"data":{"fn":"on","args":["waiting"]}}\n'))["data"]
            last = gateway.add_one(queue)
            frame = events.receive()
            assert (frame["id"], frame["data"]["event"], frame["data"]["args"][0]["jobId"]) == (1, "waiting", last)

    def test_the_guide_sends_no_id_and_may_not_wait_for_an_answer(
        self, toril: TorilProcess, gateway: Gateway, queue: str
    ) -> None:
        with bun(toril, f"{queue}/events") as events:
            events.send('{"data":{"fn":"on","args":["added"]}}')
            assert json.loads(raw(events))["id"] is None, "not a number that an event may have"
            gateway.add_one(queue)
            assert events.receive()["data"]["event"] == "added"

    def test_a_refused_subscription_says_so_in_data(self, toril: TorilProcess, queue: str) -> None:
        with go(toril, f"{queue}/events") as events:
            for frame in (
                '{"id":2,"data":{"fn":"once","args":["completed"]}}\n',
                '{"id":2,"data":{"fn":"on","args":[1]}}\n',
                '{"id":2,"data":{"fn":"on","args":null}}\n',
            ):
                refused(events, frame, f"Invalid message {frame}")


class TestConnectionLoss:
    """The clients' workers neither close politely nor say that they stop."""

    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_jobs_of_a_disconnected_worker_go_to_the_next_worker(
        self,
        toril: TorilProcess,
        gateway: Gateway,
        queue: str,
        how: str,
        canary: Callable[[], None],
    ) -> None:
        job_id = gateway.add_one(queue, {"n": 1})
        with go(toril, f"{queue}/process/2") as worker:
            worker.jobs(1)
            if how == "close":
                worker.connection.close(1000)
            else:
                worker.drop()
            with bun(toril, f"{queue}/process/2") as other:
                assert raw(other) == '{"id":0,"data":{"type":"process","payload":{"n":1}}}'
                other.send('{"id":0,"data":{"result":null}}')
                done = gateway.finished(queue, job_id)
        assert (done["attemptsMade"], done["attemptsStarted"]) == (1, 2)
        assert "failedReason" not in done
        canary()
