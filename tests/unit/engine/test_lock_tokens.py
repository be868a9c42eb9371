import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.engine.lock_tokens import LockTokens

TOKENS = LockTokens([b"one", b"two"], "8f14")


def test_a_token_is_known_for_its_queue_by_every_instance_with_the_same_secrets() -> None:
    made = TOKENS.made("orders", "8f14:7")
    assert re.fullmatch(rb"8f14:7\d{29}", made)
    assert TOKENS.knows("orders", made)
    assert LockTokens([b"two", b"one", b"one"], "8f14").knows("orders", made)


@pytest.mark.parametrize(
    ("queue", "tokens"),
    [("invoices", TOKENS), ("orders", LockTokens([b"one"], "8f14")), ("orders", LockTokens([], "8f14"))],
)
def test_a_token_is_not_known_for_another_queue_or_with_other_secrets(queue: str, tokens: LockTokens) -> None:
    assert not tokens.knows(queue, TOKENS.made("orders", "8f14:7"))


def test_a_changed_token_is_not_known() -> None:
    made = TOKENS.made("orders", "8f14:7")
    for other in (made[:-1], made + b"0", made.replace(b"7", b"8", 1), b"", b"8f14:7", made[:-29]):
        assert not TOKENS.knows("orders", other)


@given(st.binary(max_size=80), st.text(max_size=20))
def test_a_made_up_token_is_not_known(token: bytes, queue: str) -> None:
    assert not TOKENS.knows(queue, token)


@given(st.text(max_size=20), st.text(alphabet=st.characters(codec="ascii"), max_size=40))
def test_every_token_that_is_made_is_known(queue: str, unique: str) -> None:
    assert TOKENS.knows(queue, TOKENS.made(queue, unique))
