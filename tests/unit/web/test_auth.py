import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.access import Caller, Grant
from toril.core.errors import Unauthorized
from toril.web import auth
from toril.web.auth import SUBPROTOCOL, Tokens, bearer, check_lock, fingerprint, socket_authorization


@pytest.mark.parametrize("token", [b"a", b"a b", b"Bearer x", b"\xff", b" a", b"uuid:1"])
def test_a_token_is_all_behind_bearer_and_one_space(token: bytes) -> None:
    assert bearer(b"Bearer " + token) == token


@pytest.mark.parametrize("scheme", [b"bearer", b"BEARER", b"bEaReR"])
def test_the_scheme_is_read_in_any_case(scheme: bytes) -> None:
    assert bearer(scheme + b" aB") == b"aB"
    Tokens(("aB",)).check(scheme + b" aB")
    check_lock(scheme + b" aB", b"aB")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"bearer",
        b"BEARER ",
        b"bearera",
        b"Basic a",
        b"a",
        b" Bearer a",
        b"Bearer\ta",
        b"Token Bearer a",
    ],
)
def test_a_malformed_authorization_header_is_refused(authorization: bytes | None) -> None:
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
def test_a_token_that_is_not_configured_is_refused(given_token: str) -> None:
    with pytest.raises(Unauthorized):
        Tokens(("one", "two")).check(f"Bearer {given_token}".encode())


@pytest.mark.parametrize("tokens", [(), ("",), ("", "")])
@pytest.mark.parametrize("authorization", [None, b"Bearer ", b"Bearer x", b"Bearer  "])
def test_without_tokens_every_request_is_refused(tokens: tuple[str, ...], authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        Tokens(tokens).check(authorization)


def granted(token: str, name: str = "shop", expires_at_s: float | None = None) -> Grant:
    return Grant(hashlib.sha256(token.encode()).digest(), Caller(name), expires_at_s)


def test_a_granted_token_lets_its_caller_in_beside_the_plain_ones() -> None:
    tokens = Tokens(("root",), [granted("one"), granted("two")])
    assert tokens.check(b"Bearer one").name == tokens.check(b"Bearer two").name == "shop"
    assert tokens.check(b"Bearer root").everything


def test_a_token_is_hashed_once_and_a_wrong_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes | None] = []

    def counted(authorization: bytes | None) -> bytes:
        hashed.append(authorization)
        return fingerprint(authorization)

    tokens = Tokens(("one",), [granted("two")])
    monkeypatch.setattr(auth, "fingerprint", counted)
    for _ in range(2):
        tokens.check(b"Bearer one")
        tokens.check(b"Bearer two")
        with pytest.raises(Unauthorized):
            tokens.check(b"Bearer three")
    assert hashed == [b"Bearer one", b"Bearer two", b"Bearer three", b"Bearer three"]


def test_an_expired_token_is_refused() -> None:
    clock = [99.0]
    tokens = Tokens((), [granted("one", expires_at_s=100.0)], now=lambda: clock[0])
    tokens.check(b"Bearer one")
    tokens.check(b"Bearer one")
    clock[0] = 100.0
    with pytest.raises(Unauthorized):
        tokens.check(b"Bearer one")


def test_grants_can_be_replaced() -> None:
    tokens = Tokens(("root",), [granted("one")])
    tokens.check(b"Bearer one")
    tokens.replace(["root"], [granted("two")])
    assert tokens.check(b"Bearer two").name == "shop"
    assert tokens.check(b"Bearer root").everything
    with pytest.raises(Unauthorized):
        tokens.check(b"Bearer one")


def test_the_hash_of_a_token_is_refused_as_a_token() -> None:
    grant = granted("one")
    for shown in (grant.sha256, grant.sha256.hex().encode()):
        with pytest.raises(Unauthorized):
            Tokens((), [grant]).check(b"Bearer " + shown)


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_a_job_accepts_only_its_own_lock_token(given_token: bytes, lock: bytes) -> None:
    if given_token == lock:
        check_lock(b"Bearer " + given_token, lock)
    else:
        with pytest.raises(Unauthorized):
            check_lock(b"Bearer " + given_token, lock)


def test_no_token_opens_a_job_without_a_lock() -> None:
    with pytest.raises(Unauthorized):
        check_lock(b"Bearer x", None)


def test_a_refusal_says_only_unauthorized() -> None:
    assert Unauthorized().message == "Unauthorized"


def offered(token: bytes) -> str:
    return "toril.bearer." + base64.urlsafe_b64encode(token).rstrip(b"=").decode()


@pytest.mark.parametrize("authorization", [b"Bearer a", b"Basic a", b"Bearer ", b""])
def test_a_sockets_header_counts_before_all_else_right_or_wrong(authorization: bytes) -> None:
    assert socket_authorization(authorization, {"token": "b"}, [offered(b"c")]) == authorization


def test_a_sockets_query_counts_before_its_subprotocols() -> None:
    assert socket_authorization(None, {"token": "b"}, [offered(b"c")]) == b"Bearer b"


def test_an_empty_token_in_the_query_is_no_token_and_nothing_else_is_looked_at() -> None:
    shown = socket_authorization(None, {"token": ""}, [offered(b"c")])
    with pytest.raises(Unauthorized):
        Tokens(("c",)).check(shown)


@pytest.mark.parametrize("token", ["one", "grün", "a b", "a+/="])
def test_a_sockets_token_is_let_in_whichever_way_it_comes(token: str) -> None:
    tokens = Tokens((token,))
    tokens.check(socket_authorization(f"Bearer {token}".encode(), {}, []))
    tokens.check(socket_authorization(None, {"token": token}, []))
    tokens.check(socket_authorization(None, {}, [SUBPROTOCOL, offered(token.encode())]))


@given(st.binary(min_size=1))
def test_any_token_fits_into_a_subprotocol(token: bytes) -> None:
    assert socket_authorization(None, {}, [SUBPROTOCOL, offered(token)]) == b"Bearer " + token
    assert socket_authorization(None, {}, [offered(token), SUBPROTOCOL]) == b"Bearer " + token


@given(st.text(), st.lists(st.text().map(lambda text: f"toril.bearer.{text}") | st.text()))
def test_any_authorization_of_a_socket_is_let_in_or_refused(token: str, subprotocols: list[str]) -> None:
    for query in ({}, {"token": token}):
        with pytest.raises(Unauthorized):
            Tokens(("\x00 no one's guess \x00",)).check(socket_authorization(None, query, subprotocols))


@pytest.mark.parametrize(
    "subprotocols",
    [[], [SUBPROTOCOL], ["other", "toril.bearer"], ["toril.bearer.a"], ["toril.bearer.grün"], ["Toril.Bearer.Yw"]],
)
def test_a_socket_that_shows_no_token_is_refused(subprotocols: list[str]) -> None:
    assert socket_authorization(None, {"other": "a"}, subprotocols) is None


def test_half_a_character_in_a_query_is_no_crash() -> None:
    assert socket_authorization(None, {"token": "a\ud800"}, []) == b"Bearer a?"
