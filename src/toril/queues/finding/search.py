"""`/queues/{queue}/search`: finds jobs by their contents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobReader
from toril.bullmq.ports.scanning import JobScanner
from toril.bullmq.rules.actions import STATES
from toril.bullmq.rules.place import WalkPlace, read_cursor
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, InvalidWhere
from toril.core.stored_job import Fields
from toril.queues import job_json
from toril.queues.finding.scan import Sought, look
from toril.queues.queues import ORDER, is_oldest_first
from toril.queues.rules.search import Condition, NotUnderstood, read_search
from toril.queues.shapes import answers
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.parameters import integer_in
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

BUDGET_MS = 500
MAX_BUDGET_MS = 2000
MOST_MATCHES = 50
MOST_BYTES = 2**20
"""An answer ends with the job that makes it as long as this."""

_SEARCH = About(
    (Reply(answers.FoundJobs, "The jobs that were found, and a cursor for the rest"),),
    parameters=(
        Parameter("where", str, "The condition, such as `data.customer.id = 42 and failedReason ~ timeout`", True),
        Parameter("states", str, f"Of {', '.join(STATES)}, with commas; all of them by default"),
        ORDER,
        Parameter("cursor", str, "The `next_cursor` of the previous answer"),
        Parameter(
            "budget_ms",
            Annotated[int, Meta(ge=1, le=MAX_BUDGET_MS)],
            f"How many milliseconds the search may take; {BUDGET_MS} by default",
        ),
    ),
    errors=(InvalidWhere,),
)


class SearchRoutes:
    """The route that searches jobs."""

    def __init__(self, scanner: JobScanner, reader: JobReader, *, names: NameRules, prefix: str) -> None:
        self._scanner = scanner
        self._reader = reader
        self._names = names
        self._prefix = prefix

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/queues/{queue}/search", self.search, right=Right.JOBS_READ, own=True, about=_SEARCH)]

    async def search(self, request: Request) -> Response:
        """Search the jobs of a queue, for a bounded time per request.

        A caller finds jobs only by the parts of them that it may see.
        """
        queue, query = request.queue, request.query()
        self._names.check(queue)
        condition = condition_of(query.get("where", ""))
        asked = [state for state in query.get("states", "").split(",") if state]
        states = stored_states(asked)
        sought = Sought(queue, states, condition, is_oldest_first(query), request.hides(queue))
        cursor = query.get("cursor")
        place = read_cursor(cursor, len(states)) if cursor else WalkPlace()
        budget_ms = integer_in(query, "budget_ms", BUDGET_MS, MAX_BUDGET_MS)
        total = sum((await self._reader.counts(queue, states)).values())
        found, scanned, next_place = await self._find(sought, place, time.monotonic() + budget_ms / 1000)
        qualified = job_json.qualified(self._prefix, queue)
        jobs = job_json.array(job_json.stored(qualified, *job, hide=sought.hide) for job in found)
        next_cursor = msgspec.json.encode(None if next_place is None else next_place.cursor())
        text = b'{"jobs":%b,"scanned":%d,"total":%d,"next_cursor":%b}' % (jobs, scanned, total, next_cursor)
        return json_response(text)

    async def _find(
        self, sought: Sought, place: WalkPlace, until: float
    ) -> tuple[list[tuple[bytes, Fields]], int, WalkPlace | None]:
        """Return the jobs that were found, how many were examined, and the place to continue from."""
        found: list[tuple[bytes, Fields]] = []
        scanned = size = 0
        while True:
            looked = await look(self._scanner, sought, place)
            if looked is None:
                return found, scanned, None
            matches = looked.matches[: MOST_MATCHES - len(found)]
            ids = [looked.walked.ids[index] for index in matches]
            jobs = await self._scanner.jobs(sought.queue, ids, MOST_BYTES - size) if ids else []
            found += jobs
            size += sum(len(value) for _, fields in jobs for value in fields.values())
            if size >= MOST_BYTES or len(found) >= MOST_MATCHES:
                last = looked.walked.ids.index(jobs[-1][0])
                return found, scanned + last + 1, looked.walked.place(last)
            if len(matches) < len(looked.matches):  # some of those that were to fill the answer are gone
                last = matches[-1]
                return found, scanned + last + 1, looked.walked.place(last)
            scanned += looked.scanned
            place = looked.place
            if time.monotonic() >= until:
                return found, scanned, place


def condition_of(text: str) -> Condition:
    """Read a search.

    Raises:
        InvalidWhere: the text is not a search; `at` is the character at which reading stopped.
    """
    try:
        return read_search(text)
    except NotUnderstood as exc:
        raise InvalidWhere(str(exc), at=exc.at) from exc


def stored_states(asked: Sequence[str]) -> list[str]:
    """Return the states to search for those that were asked for; all states for none.

    `waiting` includes the waiting jobs of a paused queue.

    Raises:
        InvalidRequest: there is no such state.
    """
    for state in asked:
        if state not in STATES:
            raise InvalidRequest(f"Invalid state {state[:100]}, must be of {', '.join(STATES)}", field="states")
    parts = [part for state in asked or STATES for part in (("waiting", "paused") if state == "waiting" else (state,))]
    return list(dict.fromkeys(parts))
