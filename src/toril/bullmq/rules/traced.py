"""Puts the trace context of a caller into the options of jobs, where BullMQ's own telemetry has it (`opts.tm`)."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.job import JobOptions, JobSpec, TelemetryOption
from toril.core.http.headers import Header
from toril.core.http.trace_context import stored_headers


def traced_options(opts: JobOptions | None, metadata: str) -> JobOptions | None:
    """Return options with this context. Those that have one, or ask for none (`omitContext`), stay as they are."""
    if not metadata:
        return opts
    opts = opts or JobOptions()
    own = opts.telemetry
    if own is UNSET:
        return replace(opts, telemetry=TelemetryOption(metadata=metadata))
    if own.omitContext is True or own.metadata is not UNSET:
        return opts
    return replace(opts, telemetry=replace(own, metadata=metadata))


def own_trace(job: JobSpec) -> list[Header]:
    """Return the trace context that a caller gave in the job's own options; empty where there is none."""
    if job.opts is None or job.opts.telemetry is UNSET or job.opts.telemetry.metadata is UNSET:
        return []
    return stored_headers(job.opts.telemetry.metadata)


def traced_job(job: JobSpec, metadata: str) -> JobSpec:
    """Return a job with this context, as `traced_options`."""
    return replace(job, opts=traced_options(job.opts, metadata)) if metadata else job


def traced_flow(job: FlowJob, metadata: str) -> FlowJob:
    """Return a tree of jobs in which each has this context, as `traced_options`."""
    children = [traced_flow(child, metadata) for child in job.children]
    return replace(job, opts=traced_options(job.opts, metadata), children=children)
