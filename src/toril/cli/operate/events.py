"""`toril events` and `toril jobs tail`: print the events of queues as they happen."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from toril.cli.exit_codes import FAILED
from toril.cli.gateway_address import segment
from toril.cli.operate.api import StreamedEvent
from toril.cli.operate.following import fields_of, followed
from toril.cli.operate.operator import Operator, operating
from toril.cli.options import COUNT

_SHOWN = 200
_ENDS = {"completed": 0, "failed": FAILED, "removed": FAILED}
"""The events by which a job ends, with the exit status of who waits for it."""
_DETAILS = ("name", "prev", "failedReason", "returnvalue", "data", "delay", "count")


@click.group("events")
def events() -> None:
    """Follow the events of queues."""


@events.command("tail")
@click.argument("queues", metavar="QUEUE…", nargs=-1, required=True, help="the queues, up to 50")
@click.option("--since", metavar="ID", help="begin after this event")
@click.option("--count", type=COUNT, metavar="N", help="end after so many events (default: until Ctrl-C)")
@operating
def tail_events(op: Operator, queues: tuple[str, ...], since: str | None, count: int | None) -> int:
    """Print the events of queues as they happen, until Ctrl-C."""
    asked: dict[str, str | int | None] = {"queues": ",".join(queues), "since": since}
    printed = 0
    try:
        for event in followed(op, "/events", asked, lambda: op.out.note(f"follows {', '.join(queues)}")):
            tell(op, event, queue=str(fields_of(event).get("queue", "")))
            printed += 1
            if printed == count:
                break
    except KeyboardInterrupt:
        pass
    return 0


def tell(op: Operator, event: StreamedEvent, queue: str = "") -> None:
    """Print an event: a line for people, or one of JSON."""
    fields = fields_of(event)
    if op.out.as_json:
        op.out.document({"event": event.name, "id": event.id, "data": fields})
        return
    job = str(fields.get("jobId", ""))
    op.out.line(time.strftime("%H:%M:%S"), queue, event.name, f"#{job}" if job else "", _details(fields))


def _details(fields: dict[str, Any]) -> str:
    found = {name: fields[name] for name in _DETAILS if name in fields}
    return " ".join(f"{name}={_short(value)}" for name, value in found.items())


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def tail_jobs(op: Operator, queue: str, job_id: str | None, count: int | None) -> int:
    """Print the events of a queue's jobs, or of one job until it has ended; return the exit status."""
    op.known_queue(queue)
    path = f"/queues/{segment(queue)}"
    others = op.api.another()
    printed, asked = 0, False
    try:
        for event in followed(op, f"{path}/events", {}, lambda: op.out.note(f"follows {queue}"), every=True):
            if job_id is not None and not asked:  # once its events are heard: it may have ended before
                asked, job = True, others.get(f"{path}/jobs/{segment(job_id)}", expand="state")
                if job["state"] in _ENDS:
                    tell(op, _end_of(job))
                    return _ENDS[job["state"]]
            if not event.name or job_id not in (None, fields_of(event).get("jobId")):
                continue
            tell(op, event)
            printed += 1
            if job_id is not None and event.name in _ENDS:
                return _ENDS[event.name]
            if printed == count:
                break
    except KeyboardInterrupt:
        pass
    return 0


def _end_of(job: dict[str, Any]) -> StreamedEvent:
    """Return the event by which a job has ended, as far as the job tells."""
    data = {"jobId": job["id"]} | {name: job[name] for name in ("returnvalue", "failedReason") if name in job}
    return StreamedEvent(job["state"], msgspec.json.encode(data))
