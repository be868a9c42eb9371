"""What goes out over HTTP: job JSON and pages of it. BullMQ's spelling is confined to here and to `toril.bull`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET

from toril.core.job import NO_OPTIONS, JobSpec
from toril.core.redaction import fields_without_secrets, without_secrets
from toril.core.stored_job import Fields, json_or_text, read_options, render, text_json
from toril.gateway.routing import Answer

JSON = b"application/json"
_encode = msgspec.json.Encoder().encode
NO_CONTENT = Answer(204, JSON, b"")
OK = Answer(200, b"text/plain;charset=utf-8", b"OK")


def json_answer(body: bytes, status: int = 200) -> Answer:
    """JSON text as an answer."""
    return Answer(status, JSON, body)


def qualified(prefix: str, queue: str) -> bytes:
    """BullMQ's qualified name of a queue, as a JSON string."""
    return text_json(f"{prefix}:{queue}".encode())


def added(queue: bytes, job: JobSpec, job_id: bytes, now_ms: int, *, hide: bool) -> bytes:
    """Return the JSON of a job just added; `queue` is the qualified name as a JSON string. With `hide`, no secrets."""
    opts, data = job.opts, bytes(job.data)
    if opts is None:
        options, delay, priority, more = NO_OPTIONS, 0, 0, b""
    else:
        options = _encode(opts.as_shown())
        delay = 0 if opts.delay is UNSET else opts.delay
        priority = 0 if opts.priority is UNSET else opts.priority
        more = b"" if opts.deduplication is UNSET else b',"deduplicationId":' + _encode(opts.deduplication.id)
    return (
        b'{"name":%b,"data":%b,"opts":%b,"id":%b,"progress":0,"returnvalue":null,"stacktrace":null,"delay":%d,'
        b'"priority":%d,"attemptsStarted":0,"attemptsMade":0,"stalledCounter":0,"timestamp":%d,'
        b'"queueQualifiedName":%b%b}'
    ) % (
        _encode(job.name),
        without_secrets(data) if hide else data,
        options,
        b'"%b"' % job_id if job_id.isdigit() else text_json(job_id),
        delay,
        priority,
        job.timestamp_ms(now_ms),
        queue,
        more,
    )


def stored(queue: bytes, job_id: bytes, fields: Fields, *, hide: bool) -> bytes:
    """Return the JSON of a stored job; with `hide`, without secrets."""
    shown = fields_without_secrets(fields) if hide else fields
    return render(queue, job_id, shown, read_options(fields.get(b"opts", b"{}")).text)


def value(text: bytes, *, hide: bool) -> bytes:
    """Return a stored value as JSON; with `hide`, without secrets."""
    return json_or_text(without_secrets(text) if hide else text)


def array(items: Iterable[bytes]) -> bytes:
    """JSON texts as a JSON array."""
    return b"[%b]" % b",".join(items)


def log_page(lines: Sequence[bytes], count: int) -> bytes:
    """Log lines of a job."""
    return b'{"logs":%b,"count":%d}' % (array(text_json(line) for line in lines), count)
