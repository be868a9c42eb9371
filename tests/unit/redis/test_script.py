from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import hiredis
import pytest

from toril.redis.links import Links
from toril.redis.resp import ReplyError
from toril.redis.script import Script

TEXT = b"return {KEYS[1], ARGV[1], ARGV[2]}"


def script(arguments: str = "first second?") -> Script:
    return Script("pair", TEXT, keys="one two", arguments=arguments, returns="what it was given")


def parts(packed: bytes) -> list[bytes]:
    """The parts of a packed command."""
    reader = hiredis.Reader()
    reader.feed(packed)
    found: list[bytes] = reader.gets()
    assert reader.gets() is False, "it is one command"
    return found


def test_a_call_names_the_script_by_its_sha() -> None:
    sha = hashlib.sha1(TEXT).hexdigest().encode()
    assert parts(script().packed(["a", b"b\r\n"], 1, "x")) == [b"EVALSHA", sha, b"2", b"a", b"b\r\n", b"1", b"x"]


def test_a_packed_head_and_its_arguments_make_a_whole_call() -> None:
    head = script().head(["a", "b"], 2)
    assert head + b"$1\r\n1\r\n$0\r\n\r\n" == script().packed(["a", "b"], 1, "")


def test_a_packed_call_can_be_resent_with_the_scripts_text() -> None:
    packed = script().packed(["a", b"\xff$40"], "EVALSHA", b"\x00")
    assert parts(script().with_text(packed)) == [b"EVAL", TEXT, b"2", b"a", b"\xff$40", b"EVALSHA", b"\x00"]


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"]])
def test_another_number_of_keys_is_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match=f"pair takes 2 keys, got {len(keys)}"):
        script().head(keys, 1)


@pytest.mark.parametrize(("keys", "refused"), [("one*", set()), ("one two*", {0}), ("one two three*", {0, 1})])
def test_a_star_in_a_scripts_keys_stands_for_any_number_of_keys(keys: str, refused: set[int]) -> None:
    made = Script("several", TEXT, keys=keys)
    for count in range(5):
        given = [f"key-{number}" for number in range(count)]
        if count in refused:
            with pytest.raises(ValueError, match=f"several takes {len(keys.split()) - 1} or more keys, got {count}"):
                made.head(given, 0)
        else:
            assert parts(made.packed(given))[2:] == [b"%d" % count, *(key.encode() for key in given)]


class Connection:
    """Notes by which method calls are sent, and says to the first that it does not know the script."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def of(self, key: bytes) -> Connection:
        return self

    async def run_script(self, packed: bytes) -> str:
        return self._reply("run_script", packed)

    async def pipeline(self, commands: Sequence[bytes]) -> list[str]:
        return [self._reply("pipeline", command) for command in commands]

    def _reply(self, method: str, packed: bytes) -> str:
        self.sent.append((method, parts(packed)[0]))
        if len(self.sent) == 1:
            raise ReplyError("NOSCRIPT No matching script.")
        return "done"


@pytest.mark.parametrize(("names_all", "method"), [(False, "run_script"), (True, "pipeline")])
async def test_a_script_that_names_all_its_keys_may_follow_them_to_another_node(names_all: bool, method: str) -> None:
    """`run_script` waits while a cluster moves the slot; `pipeline` asks the node that has the keys by then."""
    connection = Connection()
    made = Script("pair", TEXT, keys="one", names_all=names_all)
    assert await made.call(cast(Links, connection), ["a"]) == "done"
    assert connection.sent == [(method, b"EVALSHA"), (method, b"EVAL")]


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [("", {1, 2, 3}), ("a b", {0, 1, 3}), ("a b?", {0, 3}), ("a b*", {0}), ("a*", set())],
)
def test_another_number_of_arguments_is_refused(arguments: str, refused: set[int]) -> None:
    made = script(arguments)
    for count in range(4):
        if count in refused:
            with pytest.raises(ValueError, match="pair takes the arguments"):
                made.head(["a", "b"], count)
        else:
            made.head(["a", "b"], count)
