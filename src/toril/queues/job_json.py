"""The JSON of jobs and pages of jobs. BullMQ's spelling is confined to this module and to `toril.bullmq`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache

import msgspec
from msgspec import UNSET, Raw

from toril.bullmq.rules.job import NO_OPTIONS, JobSpec
from toril.core.redaction import Redaction
from toril.core.stored_job import Fields, json_or_text, render, shown_options, text_json

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


@lru_cache(1024)
def qualified(prefix: str, queue: str) -> bytes:
    """Return BullMQ's qualified name of a queue as a JSON string."""
    return text_json(f"{prefix}:{queue}".encode())


def added(queue: bytes, job: JobSpec, job_id: bytes, now_ms: int, *, hide: Redaction | None) -> bytes:
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
        hide.text(data, b"data") if hide else data,
        options,
        b'"%b"' % job_id if job_id.isdigit() else text_json(job_id),
        delay,
        priority,
        job.timestamp_ms(now_ms),
        queue,
        more,
    )


def stored(queue: bytes, job_id: bytes, fields: Fields, *, hide: Redaction | None) -> bytes:
    """Return the JSON of a stored job; with `hide`, without secrets."""
    shown = hide.fields(fields) if hide else fields
    return render(queue, job_id, shown, shown_options(fields.get(b"opts", b"{}")))


def only(job: bytes, names: Container[str]) -> bytes:
    """Return the JSON of a job with no more than these fields, and its id."""
    return _encode({name: value for name, value in _decode_fields(job).items() if name in names or name == "id"})


def value(text: bytes, field: bytes, *, hide: Redaction | None) -> bytes:
    """Return a value that is stored in a field of a job as JSON; with `hide`, without secrets."""
    return json_or_text(hide.text(text, field) if hide else text)


def array(items: Iterable[bytes]) -> bytes:
    """Return JSON texts as a JSON array."""
    return b"[%b]" % b",".join(items)


def log_page(lines: Sequence[bytes], count: int) -> bytes:
    """Return a page of log lines."""
    return b'{"logs":%b,"count":%d}' % (array(text_json(line) for line in lines), count)
