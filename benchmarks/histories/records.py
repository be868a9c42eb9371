"""The cases of a door: as objects while a caller works on them, and packed from then on.

Three million cases as objects would take all memory of a machine. Packed they are a row of bytes for each two thousand
cases, and a case is made of it again when the history is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks.histories.case import Arrival, Call, Case, Final
from benchmarks.histories.plan import DoorName, Script, script

_ROW = 2048
_PREFIX = struct.Struct("<II")
_MOST_STEPS = 255


class _Called(Struct, array_like=True):
    """What a caller has noted of a case."""

    script: Script
    calls: list[Call]
    results: list[tuple[str, int, float]]


class _Packed:
    """Messages that belong to numbers, in the order in which they came."""

    def __init__(self, kind: Any) -> None:
        self._rows: list[bytearray] = []
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)

    def add(self, number: int, message: object) -> None:
        """Keep a message."""
        row, packed = number // _ROW, self._encoder.encode(message)
        while len(self._rows) <= row:
            self._rows.append(bytearray())
        self._rows[row] += _PREFIX.pack(number, len(packed)) + packed

    def row(self, row: int) -> Iterator[tuple[int, Any]]:
        """Yield the messages of a row, each with its number."""
        packed = memoryview(self._rows[row]) if row < len(self._rows) else memoryview(b"")
        at = 0
        while at < len(packed):
            number, length = _PREFIX.unpack_from(packed, at)
            at += _PREFIX.size
            yield number, self._decoder.decode(packed[at : at + length])
            at += length

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return sum(map(len, self._rows))


class Records:
    """All cases of one door in a run. Iterating makes those whose callers are done, whole and in order."""

    def __init__(self, seed: int, door: DoorName) -> None:
        self.door = door
        self._seed = seed
        self._begun = 0
        self._open: dict[int, Case] = {}
        self._called = _Packed(_Called)
        self._arrivals = _Packed(Arrival)
        self._finals = _Packed(dict[str, Final])
        self._under_way: dict[int, tuple[int, Arrival]] = {}
        self._steps = bytearray()

    def __len__(self) -> int:
        return self._begun

    def begin(self) -> Case:
        """Return the next case, for a caller."""
        number = self._begun
        self._begun += 1
        case = self._open[number] = Case(self.door, number, script(self._seed, self.door, number))
        return case

    @property
    def open(self) -> list[Case]:
        """The cases that callers work on."""
        return list(self._open.values())

    @property
    def ended(self) -> int:
        """How many cases callers are done with."""
        return self._begun - len(self._open)

    def end(self, case: Case) -> None:
        """Pack what a caller has noted; it calls no more for this case."""
        del self._open[case.number]
        self._called.add(case.number, _Called(case.script, case.calls, case.results))

    def next_reply(self, number: int) -> Any:
        """Return how the endpoint answers the next request of a case, and count it."""
        if number >= len(self._steps):
            self._steps.extend(bytes(number + _ROW - len(self._steps)))
        step = self._steps[number]
        self._steps[number] = min(step + 1, _MOST_STEPS)
        case = self._open.get(number)
        replies = (script(self._seed, self.door, number) if case is None else case.script).replies
        return replies[min(step, len(replies) - 1)]

    def arrivals_of(self, number: int) -> int:
        """Return how many requests of a case have come, at most 255."""
        return self._steps[number] if number < len(self._steps) else 0

    def arrived(self, number: int, arrival: Arrival) -> None:
        """Note a request that is being answered."""
        self._under_way[arrival.serial] = number, arrival

    def answered(self, arrival: Arrival) -> None:
        """Pack a request that has ended."""
        number, arrival = self._under_way.pop(arrival.serial)
        self._arrivals.add(number, arrival)

    def found(self, number: int, finals: dict[str, Final]) -> None:
        """Pack what toril says of the jobs of a case in the end."""
        self._finals.add(number, finals)

    def called(self) -> Iterator[Case]:
        """Yield the cases whose callers are done, with nothing but what these have noted, and jobs that were found."""
        for row in range(self._rows):
            cases = self._of_row(row)
            yield from cases.values()

    def __iter__(self) -> Iterator[Case]:
        unfinished: dict[int, list[Arrival]] = {}
        for number, arrival in self._under_way.values():
            unfinished.setdefault(number, []).append(arrival)
        for row in range(self._rows):
            cases = self._of_row(row)
            for number, arrival in self._arrivals.row(row):
                if number in cases:
                    cases[number].arrivals.append(arrival)
            for number, case in cases.items():
                case.arrivals += unfinished.get(number, [])
                case.arrivals.sort(key=lambda arrival: arrival.at)
            yield from cases.values()

    def _of_row(self, row: int) -> dict[int, Case]:
        cases = {
            number: Case(self.door, number, noted.script, noted.calls, results=noted.results)
            for number, noted in self._called.row(row)
        }
        for number, finals in self._finals.row(row):
            cases[number].finals |= finals
        return dict(sorted(cases.items()))

    @property
    def _rows(self) -> int:
        return -(-self._begun // _ROW)

    @property
    def size_bytes(self) -> int:
        """How much memory the packed history takes."""
        return self._called.size_bytes + self._arrivals.size_bytes + self._finals.size_bytes
