"""The metrics of the delivery door, on a real gateway whose target, events and configuration get into trouble."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.test_metrics import OF_TARGETS, Samples, scrape, total
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.core.metrics import METRICS

SOON_S = 30.0
# They have samples only where a store fails; tests/unit count them.
OF_FAILED_STORES = {"toril_janitor_failures_total", "toril_payload_failures_total", "toril_events_not_told_total"}


class Measured:
    """A gateway with targets."""

    def __init__(self, toril: TorilProcess, endpoints: dict[str, Endpoint], file: Path) -> None:
        self.toril = toril
        self.endpoints = endpoints
        self.file = file
        self.door = Door(toril.gateway)

    def until(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has this value."""
        eventually(lambda: total(scrape(self.toril), name, **labels) == value, timeout_s=SOON_S, what=name)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    folder = tmp_path_factory.mktemp("measured")
    endpoints = {name: Endpoint().__enter__() for name in ("good", "bad", "busy", "ops")}
    targets: dict[str, Any] = {name: {"url": endpoint.at("/")} for name, endpoint in endpoints.items()}
    targets["bad"] |= {"breaker": {"failures": 2, "open_for": "1h"}, "retry": {"retry_on": [503]}}
    targets["good"] |= {"retention": {"delivered": "1ms"}}
    file = configuration(
        folder / "toril.yaml",
        targets,
        ledger={"url": f"sqlite:///{folder}/ledger.sqlite3"},
        delivery={"janitor_every": "500ms"},
        events={"target": "ops"},
    )
    with (
        ValkeyProcess(folder / "valkey") as valkey,
        TorilProcess(valkey.url, folder / "toril.log", args=("--config", str(file), "--processes", "2")) as toril,
    ):
        yield Measured(toril, endpoints, file)
    for endpoint in endpoints.values():
        endpoint.close()


def test_a_delivery_is_measured_from_its_acceptance_to_its_removal(measured: Measured) -> None:
    first = measured.door.enqueue("good", "key-1", body=1)
    assert measured.door.post({"target": "good", "body": 1}, "key-1").json()["job_id"] == first
    measured.until("toril_accept_duration_seconds_count", 2, door="delivery")
    measured.until("toril_idempotent_replays_total", 1, queue="deliver-good")
    measured.until("toril_attempts_total", 1, queue="deliver-good", outcome="2xx", verdict="complete")
    measured.until("toril_janitor_removed_total", 1, kind="deliveries")
    measured.until("toril_ledger_up", 1)  # one process of the two says so
    # The other process tells what it measured within a second.
    eventually(
        lambda: total(scrape(measured.toril), "toril_ledger_commit_duration_seconds_count") >= 3, timeout_s=SOON_S
    )
    measured.until("toril_ledger_waiting", 0)


def test_dead_letters_breakers_and_holds_are_measured_by_target(measured: Measured) -> None:
    measured.endpoints["bad"].behaviour = lambda _: respond(400)
    measured.door.enqueue("bad")
    measured.until("toril_dead_letters_total", 1, queue="deliver-bad", reason="refused")
    measured.until("toril_breaker_open", 0, queue="deliver-bad")
    measured.endpoints["bad"].behaviour = lambda _: respond(503)
    for _ in range(3):
        measured.door.enqueue("bad")
    measured.until("toril_breaker_open", 1, queue="deliver-bad")
    measured.endpoints["busy"].behaviour = lambda _: respond(429, headers=[("retry-after", "600")])
    measured.door.enqueue("busy")
    eventually(
        lambda: 500 < total(scrape(measured.toril), "toril_target_held_seconds", queue="deliver-busy") <= 600,
        timeout_s=SOON_S,
    )
    measured.until("toril_target_deliveries", 1, queue="deliver-bad", state="dead_letters")
    eventually(
        lambda: total(scrape(measured.toril), "toril_target_oldest_age_seconds", queue="deliver-busy") > 0,
        timeout_s=SOON_S,
    )


def test_a_delivery_that_waits_past_its_deadline_is_counted_once_as_a_dead_letter(measured: Measured) -> None:
    measured.toril.client.post("/targets/good/pause").raise_for_status()
    measured.door.enqueue("good", deadline="2020-01-01T00:00:00Z")
    measured.until("toril_deliveries_recovered_total", 1, queue="deliver-good", change="expired")
    measured.until("toril_dead_letters_total", 1, queue="deliver-good", reason="deadline")
    measured.toril.client.post("/targets/good/resume").raise_for_status()


def test_a_configuration_that_is_refused_or_waits_is_measured(measured: Measured) -> None:
    good = measured.file.read_text()
    parsed = yaml.safe_load(good)
    measured.until("toril_config_refused", 0)
    parsed["targets"]["good"]["concurrency"] = "many"
    measured.file.write_text(yaml.safe_dump(parsed))
    measured.until("toril_config_refused", 1)
    parsed["targets"]["good"]["concurrency"] = 7
    measured.file.write_text(yaml.safe_dump(parsed))
    measured.until("toril_config_pending", 1)
    measured.until("toril_config_refused", 0)
    measured.file.write_text(good)
    measured.until("toril_config_pending", 0)


def test_events_are_counted_and_every_metric_of_targets_has_samples(measured: Measured) -> None:
    measured.until("toril_events_total", 2, type="delivery.dead_lettered")
    measured.until("toril_events_waiting", 0)
    scraped: Samples = scrape(measured.toril)
    names = {name.removesuffix("_count").removesuffix("_bucket").removesuffix("_sum") for name, _, _ in scraped}
    wanted = {metric.name for metric in METRICS if metric.name in OF_TARGETS} - OF_FAILED_STORES
    assert wanted - names == set()
