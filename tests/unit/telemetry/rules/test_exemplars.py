"""Who gets OpenMetrics. The exemplars themselves are tested in tests/conformance/test_meter.py."""

import pytest

from toril.telemetry.rules.exemplars import asks_for_open_metrics

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    "accept",
    [
        PROMETHEUS_2,
        PROMETHEUS_3,
        "application/openmetrics-text",
        'text/plain, Application/OpenMetrics-Text; version="1.0.0"',
    ],
)
def test_a_scraper_that_likes_open_metrics_gets_it(accept: str) -> None:
    assert asks_for_open_metrics(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain",
        "text/html,application/xhtml+xml,*/*;q=0.8",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.2,text/plain;q=0.5",
        "application/openmetrics-text;version=2.0.0",
        "application/openmetrics-text;q=much",
        ";,=;q",
    ],
)
def test_everything_else_gets_plain_text(accept: str) -> None:
    assert not asks_for_open_metrics(accept)
