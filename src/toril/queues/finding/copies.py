"""`/queues/{queue}/jobs/{id}/copy`: adds a copy of a job."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobReader
from toril.bullmq.rules.actions import invalid
from toril.bullmq.rules.job import JobOptions
from toril.bullmq.rules.job_decoding import decode_jobs
from toril.bullmq.rules.json_values import require_utf8
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import JobNotFound
from toril.core.stored_job import Fields, read_options
from toril.queues.queues import JobAdder
from toril.queues.shapes import answers
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

# Options that identify one job, so that a copy does not have them.
_OWN = frozenset({"jobId", "timestamp", "deduplication"})
_COPIED = frozenset(JobOptions.__struct_fields__) - _OWN
_encode = msgspec.json.Encoder().encode
_decode_options = msgspec.json.Decoder(dict[str, Raw]).decode


class Copy(Struct, frozen=True, forbid_unknown_fields=True):
    """The name, data and options that a copy has instead of the original's."""

    name: Any = UNSET
    data: Raw | UnsetType = UNSET
    opts: Raw | UnsetType = UNSET


_read = msgspec.json.Decoder(Copy).decode
_COPY = About((Reply(answers.Job, "The added job"),), body=answers.JobCopy, body_required=False, errors=(JobNotFound,))


class CopyRoutes:
    """The route that copies a job."""

    def __init__(self, adder: JobAdder, reader: JobReader, *, names: NameRules, max_body_bytes: int) -> None:
        self._adder = adder
        self._reader = reader
        self._names = names
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "/queues/{queue}/jobs/{id}/copy",
                self.copy,
                method="POST",
                right=Right.JOBS_ADD,
                own=True,
                by_hand=True,
                door="queues",
                about=_COPY,
            )
        ]

    async def copy(self, request: Request) -> Response:
        """Add a copy of a job, with changes from the body. Also needs `jobs:read`.

        The copy has a new id, and neither a parent nor a scheduler.
        """
        queue, job_id = request.job(self._names)
        request.demand(Right.JOBS_READ, queue)
        changes = read_copy(await request.json_text(self._max_body_bytes))
        fields = await self._reader.get(queue, job_id)
        if fields is None:
            raise JobNotFound
        jobs = decode_jobs(b"[%b]" % copied(fields, changes))
        (added,) = await self._adder.add(queue, jobs, hide=request.hides(queue))
        return json_response(added)


def read_copy(body: bytes) -> Copy:
    """Read the body.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        return _read(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc


def copied(fields: Fields, changes: Copy) -> bytes:
    """Return the JSON of a job to add: that of a stored job with these changes, its data byte for byte."""
    name = fields.get(b"name", b"").decode(errors="replace") if changes.name is UNSET else changes.name
    data = fields.get(b"data") or b"{}" if changes.data is UNSET else bytes(changes.data)
    if changes.opts is UNSET:
        stored = _decode_options(read_options(fields.get(b"opts") or b"{}").text)
        options = _encode({option: value for option, value in stored.items() if option in _COPIED})
    else:
        options = bytes(changes.opts)
    return b'{"name":%b,"data":%b,"opts":%b}' % (_encode(name), data, options)
