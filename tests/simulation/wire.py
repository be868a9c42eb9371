"""The way between an instance and a store: calls take time, and get lost, late or doubled as chance has it.

A call is carried out at one moment, between the moments when it is made and answered. Calls of one line are carried out
in the order in which they were made, as on one connection. An instance that is killed hears nothing from then on; what
it had sent may still be carried out.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any

from msgspec import Struct

from toril.core.errors import (
    BlobsUnavailable,
    ConnectionLost,
    LedgerUnavailable,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)


class Rates(Struct, frozen=True):
    """How likely each fault of a call is."""

    unsent: float = 0.0
    """It never arrives, and its caller gets an error."""
    unanswered: float = 0.0
    """It is carried out, and its caller gets an error."""
    late: float = 0.0
    """Its caller gets an error, and it is carried out after that."""
    slow: float = 0.0
    """It takes up to seconds."""
    doubled: float = 0.0
    """It is carried out twice, where the port promises that this changes nothing."""

    def scaled(self, by: float) -> "Rates":
        """Return rates so many times as high."""
        return Rates(*(getattr(self, name) * by for name in self.__struct_fields__))


CALM = Rates()
ROUGH = Rates(unsent=0.02, unanswered=0.03, late=0.01, slow=0.02, doubled=0.03)


class Failures(Struct, frozen=True):
    """The errors by which a port tells of a lost answer, a late one, and of a store that is away."""

    lost: type[StoreError] = ConnectionLost
    late: type[StoreError] = StoreTimeout
    away: type[StoreError] = StoreUnavailable


REDIS = Failures()
LEDGER = Failures(LedgerUnavailable, LedgerUnavailable, LedgerUnavailable)
BLOBS = Failures(BlobsUnavailable, BlobsUnavailable, BlobsUnavailable)

Step = Callable[[], Coroutine[Any, Any, Any]]

_MOMENT_S = 2.0


def at_once(step: Step) -> Any:
    """Carry out a fake's call in one go: a fake only gives way to others, and waits for nothing."""
    coro = step()
    try:
        while True:
            assert coro.send(None) is None, "a fake waits for something"
    except StopIteration as done:
        return done.value


class Line:
    """What an instance's calls go through.

    Args:
        name: for the trace.
        chance: decides about faults.
        stepped: called after each step that was carried out.
        note: takes lines of the trace.
    """

    def __init__(
        self,
        name: str,
        chance: random.Random,
        rates: Rates,
        stepped: Callable[[], None],
        note: Callable[..., None],
    ) -> None:
        self.name = name
        self.rates = rates
        self.alive = True
        self._away_since: float | None = None
        self._outage_s = 0.0
        self.still_until = 0.0
        self._chance = chance
        self._stepped = stepped
        self._note = note
        self._next_at = 0.0
        self._failed_at = float("-inf")

    @property
    def away(self) -> bool:
        """True while the stores cannot be reached."""
        return self._away_since is not None

    @away.setter
    def away(self, away: bool) -> None:
        if away != self.away:
            self._outage_s = self.outage_s
            self._away_since = asyncio.get_running_loop().time() if away else None

    @property
    def outage_s(self) -> float:
        """For how long the stores could not be reached when that happened last, or has happened until now."""
        return self._outage_s if self._away_since is None else asyncio.get_running_loop().time() - self._away_since

    @property
    def troubled(self) -> bool:
        """True where a call has failed a moment ago."""
        return asyncio.get_running_loop().time() - self._failed_at < _MOMENT_S

    @property
    def reachable(self) -> bool:
        """True while its process runs and reaches the stores."""
        return self.alive and not self.away and self.still_until <= asyncio.get_running_loop().time() + 1e-6

    def cut(self) -> None:
        """Let the instance hear nothing from now on: its process is gone."""
        self.alive = False

    async def call(self, what: str, step: Step, failures: Failures = REDIS, *, repeatable: bool = False) -> Any:
        """Make a call; raises `CancelledError` in an instance that is gone."""
        if not self.alive:
            raise asyncio.CancelledError
        chance, rates = self._chance, self.rates
        if self.away:
            await asyncio.sleep(0.001 + 0.01 * chance.random())
            raise self._failed(failures.away)
        loop = asyncio.get_running_loop()
        drawn = chance.random()
        delay_s = 0.0002 + 0.001 * chance.random()
        if drawn < rates.unsent:
            self._note(self.name, what, "unsent")
            await asyncio.sleep(delay_s)
            raise self._failed(failures.lost)
        drawn -= rates.unsent
        unanswered, late = drawn < rates.unanswered, rates.unanswered <= drawn < rates.unanswered + rates.late
        drawn -= rates.unanswered + rates.late
        if 0 <= drawn < rates.slow:
            delay_s += 3.0 * chance.random() ** 3
        twice = repeatable and rates.slow <= drawn < rates.slow + rates.doubled
        survives = chance.random() < 0.5
        answer: asyncio.Future[Any] = loop.create_future()
        if late:
            # Carried out later than all that comes after it; the connection was given up meanwhile.
            loop.call_later(
                0.5 + 3.0 * chance.random(), self._carry_out, what, step, answer, survives, True, context=Context()
            )
            await asyncio.sleep(0.3)
            self._check_alive()
            self._note(self.name, what, "late")
            raise self._failed(failures.late)
        self._next_at = max(self._next_at, loop.time() + delay_s)
        loop.call_at(self._next_at, self._carry_out, what, step, answer, survives, False, context=Context())
        if twice:
            again_at = self._next_at + 0.001 * chance.random()
            loop.call_at(again_at, self._carry_out, what, step, answer, survives, True, context=Context())
        if unanswered:
            await asyncio.wait([answer])
            if not answer.cancelled():
                answer.exception()
            self._check_alive()
            self._note(self.name, what, "unanswered")
            raise self._failed(failures.lost)
        result = await answer
        self._check_alive()
        return result

    def _failed(self, error: Exception) -> Exception:
        self._check_alive()
        self._failed_at = asyncio.get_running_loop().time()
        return error

    def _check_alive(self) -> None:
        if not self.alive:
            raise asyncio.CancelledError

    def _carry_out(self, what: str, step: Step, answer: "asyncio.Future[Any]", survives: bool, unheard: bool) -> None:
        if not self.alive and not survives:
            return
        try:
            result = at_once(step)
        except Exception as exc:
            told = partial(answer.set_exception, exc)
            self._note(self.name, what, type(exc).__name__)
        else:
            told = partial(answer.set_result, result)
            self._note(self.name, what, "" if self.alive else "after death")
        if not unheard:
            self._tell(answer, told)
        self._stepped()

    def _tell(self, answer: "asyncio.Future[Any]", told: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if self.still_until > loop.time() + 1e-6:
            loop.call_at(self.still_until, self._tell, answer, told, context=Context())
        elif not answer.done():
            told()


class Wired:
    """A port of an instance, behind its line: every method of the fake is a call over it.

    Args:
        repeatable: the methods that may be carried out twice.
        before: called with the name and the arguments of each call when it is made.
    """

    def __init__(
        self,
        port: Any,
        line: Line,
        failures: Failures = REDIS,
        *,
        repeatable: frozenset[str] = frozenset(),
        before: Callable[[str, tuple[Any, ...]], None] = lambda method, given: None,
    ) -> None:
        self._port = port
        self._line = line
        self._failures = failures
        self._repeatable = repeatable
        self._before = before

    def __getattr__(self, method: str) -> Any:
        target, line, repeatable = getattr(self._port, method), self._line, method in self._repeatable

        async def call(*given: Any, **named: Any) -> Any:
            self._before(method, given)
            return await line.call(method, partial(target, *given, **named), self._failures, repeatable=repeatable)

        setattr(self, method, call)
        return call
