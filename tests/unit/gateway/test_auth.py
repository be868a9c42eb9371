import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.errors import Unauthorized
from toril.gateway.auth import Tokens, bearer, check_lock


@pytest.mark.parametrize("token", [b"a", b"a b", b"Bearer x", b"\xff", b" a", b"uuid:1"])
def test_a_token_is_all_behind_bearer_and_one_space(token: bytes) -> None:
    assert bearer(b"Bearer " + token) == token


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"bearer a",
        b"BEARER a",
        b"Basic a",
        b"a",
        b" Bearer a",
        b"Bearer\ta",
        b"Token Bearer a",
    ],
)
def test_anything_else_is_no_token(authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        bearer(authorization)
    with pytest.raises(Unauthorized):
        Tokens(("a",)).check(authorization)
    with pytest.raises(Unauthorized):
        check_lock(authorization, b"a")


@pytest.mark.parametrize("token", ["one", "two", "grün"])
def test_every_configured_token_is_let_in(token: str) -> None:
    Tokens(("one", "two", "grün")).check(f"Bearer {token}".encode())


@pytest.mark.parametrize("given_token", ["on", "one ", "ONE", "one,two", "onetwo", "three", "\x00"])
def test_another_token_is_not(given_token: str) -> None:
    with pytest.raises(Unauthorized):
        Tokens(("one", "two")).check(f"Bearer {given_token}".encode())


@pytest.mark.parametrize("tokens", [(), ("",), ("", "")])
@pytest.mark.parametrize("authorization", [None, b"Bearer ", b"Bearer x", b"Bearer  "])
def test_without_tokens_nobody_is_let_in(tokens: tuple[str, ...], authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        Tokens(tokens).check(authorization)


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_a_lock_opens_for_its_own_token_only(given_token: bytes, lock: bytes) -> None:
    if given_token == lock:
        check_lock(b"Bearer " + given_token, lock)
    else:
        with pytest.raises(Unauthorized):
            check_lock(b"Bearer " + given_token, lock)


def test_a_job_without_a_lock_opens_for_nobody() -> None:
    with pytest.raises(Unauthorized):
        check_lock(b"Bearer x", None)


def test_a_refusal_says_no_more_than_that() -> None:
    assert Unauthorized().message == "Unauthorized"
