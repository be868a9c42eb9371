"""What each of PostgreSQL's errors means to the ledger."""

import inspect

import asyncpg
import pytest

from toril.core.errors import LedgerUnavailable, RowRefused, StoreRefused, TorilError
from toril.delivery.ledger.postgres_errors import RowLocked, TryAgain, translated

KNOWN: list[type[asyncpg.PostgresError]] = [
    error
    for _, error in inspect.getmembers(asyncpg.exceptions, inspect.isclass)
    if issubclass(error, asyncpg.PostgresError) and error.sqlstate is not None
]


def translation(exc: Exception) -> TorilError:
    with pytest.raises(TorilError) as caught, translated():
        raise exc
    return caught.value


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("28P01", "user or the password"),
        ("28000", "user or the password"),
        ("3D000", "does not exist"),
        ("42501", "rights"),
        ("42P01", "tables are not there"),
        ("53100", "disk is full"),
        ("53300", "too many connections"),
        ("57P01", "shuts down"),
        ("57P03", "starts up"),
        ("57014", "too long"),
        ("25006", "read-only"),
        ("08006", "connection"),
        ("08P01", "connection"),
        ("58030", "files"),
        ("XX001", "internal"),
        ("99999", "refuses"),
    ],
)
def test_a_server_that_refuses_counts_as_an_unavailable_ledger_with_a_reason(state: str, reason: str) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "the server's words"})
    ours = translation(error)
    assert isinstance(ours, LedgerUnavailable)
    assert reason in ours.reason
    assert "server's words" not in ours.reason
    assert "the server's words" in ours.message
    assert state in ours.message


def test_few_errors_of_the_server_count_as_those_of_a_row_or_a_statement() -> None:
    assert len(KNOWN) > 200
    for error in KNOWN:
        state, ours = str(error.sqlstate), translation(error("x"))
        if state[:2] in {"21", "22", "23", "44", "54", "P0"}:
            assert type(ours) is RowRefused, state
        elif state == "55P03":
            assert type(ours) is RowLocked, state
        elif state[:2] == "40":
            assert type(ours) is TryAgain, state
        elif state[:2] in {"0A", "26", "34", "42"} and state not in {"42501", "42P01", "42703"}:
            assert type(ours) is StoreRefused, state
        else:
            assert type(ours) is LedgerUnavailable, state


@pytest.mark.parametrize("exc", [ConnectionRefusedError(), TimeoutError(), asyncpg.InterfaceError("closed"), OSError()])
def test_a_broken_connection_counts_as_an_unavailable_ledger(exc: Exception) -> None:
    ours = translation(exc)
    assert type(ours) is LedgerUnavailable
    assert not ours.message.endswith(" "), "it says what"


def test_other_errors_are_not_translated() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError("ours")
