import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.bullmq.rules.queue_name import NameRules
from toril.core.errors import InvalidRequest


def fault_of(name: str, rules: NameRules | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        (rules or NameRules()).check(name)
    return caught.value


@pytest.mark.parametrize(
    "name", ["abc", "a" * 100, "{tag}q", "a b", "größe", "a/b", "日本語", "a%2Fb", "👍👍👍", "..."]
)
def test_a_name_may_hold_nearly_anything(name: str) -> None:
    NameRules().check(name)


@pytest.mark.parametrize("name", ["", "ab"])
def test_a_short_name_is_refused_in_bullmq_proxys_words(name: str) -> None:
    assert fault_of(name).message == "queue name must be at least 3 characters long"


def test_a_long_name_is_refused_in_bullmq_proxys_words() -> None:
    assert fault_of("a" * 101).message == "queue name must be at most 100 characters long"


def test_the_limits_are_the_configured_ones() -> None:
    rules = NameRules(1, 2)
    rules.check("a")
    assert fault_of("abc", rules).message == "queue name must be at most 2 characters long"
    assert fault_of("", rules).message == "queue name must be at least 1 characters long"


def test_a_colon_is_refused_as_it_would_reach_into_another_queue() -> None:
    assert fault_of("a:b").message == "queue name must not contain :"


@pytest.mark.parametrize("character", ["\x00", "\n", "\x1f", "\x7f", "\x85", "\u2028", "\u2029"])
def test_control_characters_are_refused(character: str) -> None:
    assert fault_of(f"ab{character}").message == "queue name must not contain control characters"


def test_invalid_unicode_is_refused() -> None:
    assert fault_of("ab\ud800").message == "queue name must be valid Unicode"


def is_accepted(name: str) -> bool:
    try:
        NameRules().check(name)
    except InvalidRequest:
        return False
    return True


@given(st.text(st.characters(), max_size=8))
def test_an_accepted_name_has_no_colon(name: str) -> None:
    if is_accepted(name):
        assert b":" not in name.encode()
    else:
        assert fault_of(name).field == "queue"


class TestOnARedisCluster:
    """All keys of a queue have to be on one node."""

    @pytest.mark.parametrize(
        ("prefix", "name"),
        [
            ("bull", "{orders}"),
            ("bull", "a{orders}b"),
            ("{bull}", "orders"),
            ("x{bull}", "{orders}"),
            ("bull", "{a{b}"),
        ],
    )
    def test_the_prefix_or_the_name_has_a_hash_tag(self, prefix: str, name: str) -> None:
        NameRules(cluster_prefix=prefix).check(name)

    @pytest.mark.parametrize(
        ("prefix", "name"),
        [
            ("bull", "orders"),
            ("bull", "{}orders"),
            ("bull", "{}{orders}"),
            ("bull", "{orders"),
            ("b{", "orders"),
            ("{}b", "{ab}"),
        ],
    )
    def test_a_queue_without_a_hash_tag_is_refused(self, prefix: str, name: str) -> None:
        assert "hash tag, such as {orders}" in fault_of(name, NameRules(cluster_prefix=prefix)).message
