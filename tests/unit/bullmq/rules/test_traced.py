"""The trace context of a caller in the options of jobs: BullMQ's own place, and its `omitContext`."""

import msgspec
import pytest
from msgspec import Raw

from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.job import JobOptions, JobSpec, TelemetryOption
from toril.bullmq.rules.traced import traced_flow, traced_job, traced_options
from toril.core.stored_job import read_options

CONTEXT = '{"traceparent":"00-1-2-01"}'


def test_a_job_without_options_gets_the_context() -> None:
    job = traced_job(JobSpec("a", Raw(b"1")), CONTEXT)
    assert job.opts == JobOptions(telemetry=TelemetryOption(metadata=CONTEXT))


@pytest.mark.parametrize(
    "own",
    [
        TelemetryOption(metadata="mine"),
        TelemetryOption(omitContext=True),
        TelemetryOption(metadata="m", omitContext=False),
    ],
)
def test_a_job_with_its_own_context_or_omit_context_is_left_unchanged(own: TelemetryOption) -> None:
    assert traced_options(JobOptions(telemetry=own), CONTEXT) == JobOptions(telemetry=own)


def test_a_job_that_sets_omit_context_to_false_gets_the_context() -> None:
    opts = traced_options(JobOptions(attempts=3, telemetry=TelemetryOption(omitContext=False)), CONTEXT)
    assert opts == JobOptions(attempts=3, telemetry=TelemetryOption(metadata=CONTEXT, omitContext=False))


def test_without_a_context_nothing_changes() -> None:
    assert traced_options(None, "") is None


def test_each_job_of_a_flow_gets_the_trace_context() -> None:
    flow = FlowJob("p", "a", Raw(b"1"), None, [FlowJob("c", "b", Raw(b"1"), JobOptions(attempts=2), [])])
    traced = traced_flow(flow, CONTEXT)
    assert traced.opts is not None
    assert traced.children[0].opts == JobOptions(attempts=2, telemetry=TelemetryOption(metadata=CONTEXT))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"tm": CONTEXT}, CONTEXT),
        ({"tm": CONTEXT, "omc": True}, ""),
        ({"tm": CONTEXT, "omc": False}, CONTEXT),
        ({"omc": True}, ""),
        ({"tm": 5}, ""),
        ({}, ""),
    ],
)
def test_an_attempt_passes_on_what_is_stored_unless_the_job_wants_none(
    stored: dict[str, object], expected: str
) -> None:
    assert read_options(msgspec.json.encode(stored)).trace == expected
