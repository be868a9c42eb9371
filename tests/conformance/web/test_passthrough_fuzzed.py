"""What passes through to an upstream: any headers, any bodies, header by header and byte by byte."""

import asyncio
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.web.passing import answering, passing, serving
from tests.support.upstream import Head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Seen = list[tuple[Head, bytes]]


NAME = st.from_regex(r"X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20).map(
    lambda text: "".join(char for char in text if not 0x7F <= ord(char) < 0xA0).strip()
)
HEADERS = st.lists(st.tuples(NAME, VALUE), max_size=12).filter(
    lambda pairs: not {name.lower() for name, _ in pairs} & {"x-forwarded-for", "x-real-ip", "x-forwarded-proto"}
)


@dataclass(frozen=True)
class Case:
    """A request, and the answer to it."""

    method: str
    sent: list[tuple[str, str]]
    body: bytes
    status: int
    answered: list[tuple[str, str]]
    content: bytes

    def request(self) -> bytes:
        head = f"{self.method} / HTTP/1.1\r\nhost: x\r\n".encode() + _lines(self.sent)
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(self.body), self.body)

    def answer(self) -> bytes:
        head = f"HTTP/1.1 {self.status} Any\r\n".encode() + _lines(self.answered)
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(self.content), self.content)


def _lines(pairs: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in pairs).encode("latin-1")


METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "M-SEARCH", "REPORT"])
CASES = st.builds(Case, METHODS, HEADERS, st.binary(max_size=300), st.integers(200, 599), HEADERS, st.binary()).map(
    lambda case: replace(case, content=b"") if case.status in {204, 304} else case
)
OURS = {"host", "x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host", "content-length"}


@settings(max_examples=10, deadline=None)
@given(cases=st.lists(CASES, min_size=5, max_size=10))
def test_random_requests_and_answers_pass_through_unchanged(cases: list[Case]) -> None:
    async def exchange() -> None:
        seen: Seen = []
        async with serving(answering(*(case.answer() for case in cases), seen=seen)) as port, passing(port) as server:
            answers = [await server.ask(case.request()) for case in cases]
        for case, (head, body), answer in zip(cases, seen, answers, strict=True):
            assert (head.method, body) == (case.method, case.body)
            kept = [(name, value) for name, value in head.headers if name not in OURS]
            assert kept == [(name.lower(), value) for name, value in case.sent]
            assert (answer.status, answer.body) == (case.status, case.content)
            names = [(name.lower(), value) for name, value in case.answered]
            assert answer.headers == [*names, ("content-length", str(len(case.content)))]

    asyncio.run(exchange())
