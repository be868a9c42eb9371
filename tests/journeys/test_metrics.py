"""`/metrics` of a real instance of two processes, after everything has happened once; what `deploy/` makes of it."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.endpoint import Answer, Call, Endpoint, reply_json, respond
from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.core.metrics import JOBS_STALLED, LEASES_LOST, METRICS, PROXIED, REDIS_RECONNECTS

DEPLOY = Path(__file__).parents[2] / "deploy"
ADDS = 20
# They have samples only when something went wrong; what is below makes it go wrong, or the conformance suites do.
ONLY_IN_TROUBLE = {metric.name for metric in (LEASES_LOST, JOBS_STALLED, REDIS_RECONNECTS)}
# They have samples only with upstreams: tests/unit/proxy/test_routes.py counts them.
OF_UPSTREAMS = {PROXIED.name}
# They have samples only with targets: tests/journeys/test_delivery_metrics.py has some.
OF_TARGETS = {
    metric.name
    for metric in METRICS
    if metric.name.startswith(
        (
            "toril_events_", "toril_dead_letters_", "toril_breaker_", "toril_target_", "toril_ledger_",
            "toril_idempotent_", "toril_deliveries_", "toril_janitor_", "toril_payload_", "toril_config_",
        )
    )
}  # fmt: skip
OF_TARGETS |= {f"{name}_bucket" for name in OF_TARGETS}
# What Prometheus adds to every sample by itself.
TARGET_LABELS = {"instance", "job"}
Samples = list[tuple[str, dict[str, str], float]]


def scrape(toril: TorilProcess) -> Samples:
    """All samples, over a separate connection: any of the processes may answer."""
    answer = httpx.get(
        f"{toril.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}, timeout=20, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(value for known, has, value in samples if known == name and labels.items() <= has.items())


@pytest.fixture(scope="module")
def endpoint_of_module() -> Iterator[Endpoint]:
    def work(call: Call) -> Answer:
        match call.job["data"]:
            case "fail":
                return reply_json({}, 500)
            case "later":
                return respond(202, "Accepted", [("toril-settle", "later"), ("toril-lease-ms", "600000")])
            case _:
                return reply_json({})

    with Endpoint(work) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    """Two processes behind one port, on their own Valkey: many queues would share the label `other`."""
    folder = tmp_path_factory.mktemp("metrics")
    with (
        ValkeyProcess(folder / "valkey") as valkey,
        TorilProcess(valkey.url, folder / "toril.log", args=("--processes", "2")) as toril,
    ):
        yield toril
        assert toril.complaints() == []


@pytest.fixture(scope="module")
def traffic(pair: TorilProcess, endpoint_of_module: Endpoint) -> Iterator[str]:
    """Jobs added over separate connections, pushed, failed and pulled; an open socket and an open stream."""
    queue, pulled, listened = (f"{kind}-{uuid.uuid4().hex[:12]}" for kind in ("pushed", "pulled", "listened"))
    pair.gateway.register(queue, endpoint_of_module.url)
    for number in range(ADDS):
        with httpx.Client(base_url=pair.url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
            data = "fail" if number == 0 else number
            assert client.post(f"/queues/{queue}/jobs", json=[job(data)], timeout=20).status_code == 200
    pair.gateway.add_one(pulled)
    leased = pair.client.post(f"/queues/{pulled}/lease", json={"wait_ms": 10_000}).json()["jobs"][0]
    lock = {"authorization": f"Bearer {leased['token']}"}
    path = f"/queues/{pulled}/jobs/{leased['job']['id']}/complete"
    assert pair.client.post(path, json={}, headers=lock).status_code == 204
    pair.gateway.wait_for_counts(queue, completed=ADDS - 1, failed=1)
    pair.gateway.add_one(listened)
    pair.gateway.add(listened, *(job(1, group={"id": 'acme "1"'}) for _ in range(3)), job(1, group={"id": "other"}))
    held = f"held-{uuid.uuid4().hex[:12]}"
    assert pair.client.post(f"/queues/{held}/groups/acme/pause").is_success
    pair.gateway.register(held, endpoint_of_module.url)
    pair.gateway.add(held, job(1, group={"id": "acme"}))
    with (
        socket_to(pair.url, f"/ws/queues/{listened}"),
        pair.client.stream("GET", f"/queues/{listened}/events"),
    ):
        yield queue
    pair.gateway.unregister(queue)


@pytest.fixture(scope="module")
def samples(pair: TorilProcess, traffic: str) -> Samples:
    """A scrape that has everything that happened in either process."""

    def whole() -> Samples | None:
        found = scrape(pair)
        ended = total(found, "toril_job_duration_seconds_count", queue=traffic)
        added = total(found, "toril_accept_duration_seconds_count", door="queues")
        listening = total(found, "toril_open_sockets") and total(found, "toril_open_streams")
        read = total(found, "toril_queue_jobs", queue=traffic, state="completed") == ADDS - 1
        of_groups = {has["queue"].partition("-")[0] for name, has, _ in found if name == "toril_group_jobs"}
        grouped = "listened" in of_groups and total(found, "toril_group_held_total")
        return found if ended == ADDS and added == ADDS + 4 and listening and read and grouped else None

    found = eventually(whole, timeout_s=30, what="a scrape with everything in it")
    assert found is not None
    return found


def test_what_is_held_back_is_counted_by_group_and_reason(samples: Samples) -> None:
    (counted,) = [has for name, has, _ in samples if name == "toril_group_held_total"]
    assert counted["queue"].startswith("held-")
    assert (counted["group"], counted["reason"]) == ("acme", "paused")


def test_groups_are_shown_by_name(samples: Samples) -> None:
    (queue,) = {
        has["queue"] for name, has, _ in samples if name == "toril_group_jobs" and has["queue"].startswith("listened-")
    }
    assert total(samples, "toril_group_jobs", queue=queue, group='acme "1"') == 3
    assert total(samples, "toril_group_jobs", queue=queue, group="other") == 1
    assert total(samples, "toril_group_jobs", queue=queue) == 4
    (age,) = [
        has for name, has, _ in samples if name == "toril_group_oldest_waiting_age_seconds" and has["queue"] == queue
    ]
    assert age == {"queue": queue, "group": 'acme "1"'}


def test_every_process_shows_the_metrics_of_all(pair: TorilProcess, traffic: str, samples: Samples) -> None:
    expected = {
        ("toril_attempts_total", "2xx", "complete"): ADDS - 1,
        ("toril_attempts_total", "5xx", "fail"): 1,
    }

    def agree() -> bool:
        several = [scrape(pair) for _ in range(5)]
        return all(
            total(found, name, queue=traffic, outcome=outcome, verdict=verdict) == count
            and total(found, "toril_processes") == 2
            for found in several
            for (name, outcome, verdict), count in expected.items()
        )

    eventually(agree, timeout_s=30)


def test_every_metric_has_samples(samples: Samples) -> None:
    names = {name for name, _, _ in samples}
    for metric in METRICS:
        if metric.name not in ONLY_IN_TROUBLE | OF_UPSTREAMS | OF_TARGETS:
            assert (f"{metric.name}_count" if metric.buckets else metric.name) in names, metric.name


def test_labels_are_those_of_the_table(samples: Samples) -> None:
    table = {metric.name: metric for metric in METRICS}
    for name, labels, _ in samples:
        base = next(
            name.removesuffix(end) for end in ("_bucket", "_count", "_sum", "") if name.removesuffix(end) in table
        )
        assert set(labels) - {"le"} == set(table[base].labels), name


def test_pushed_and_pulled_jobs_are_told_apart(samples: Samples) -> None:
    assert total(samples, "toril_attempts_total", kind="push_worker") == ADDS
    assert total(samples, "toril_attempts_total", kind="pull_worker", outcome="result", verdict="complete") == 1
    assert total(samples, "toril_job_wait_duration_seconds_count", kind="push_worker") == ADDS
    assert total(samples, "toril_job_wait_duration_seconds_count", kind="pull_worker") == 1


def test_an_attempt_that_is_settled_later_is_one_attempt(
    pair: TorilProcess, samples: Samples, endpoint_of_module: Endpoint
) -> None:
    """Counted when it is settled, by what was said then, whichever process hears it. `samples` were taken before."""
    queue = f"later-{uuid.uuid4().hex[:12]}"
    pair.gateway.register(queue, endpoint_of_module.url, concurrency=3)
    began_at = time.time()
    ids = [added["id"] for added in pair.gateway.add(queue, job("later"), job("later", attempts=2), job("later"))]

    def tokens() -> dict[str, str] | None:
        calls = [call for call in endpoint_of_module.calls if call.job["queueQualifiedName"] == f"bull:{queue}"]
        found = {call.job["id"]: call.token for call in calls}
        return found if found.keys() == set(ids) else None

    locks = eventually(tokens, timeout_s=30)
    assert locks is not None
    said: list[tuple[str, str, dict[str, Any]]] = [
        (ids[0], "complete", {"returnvalue": 1}),
        (ids[1], "fail", {"reason": "no ink", "retry_in_ms": 3_600_000}),
        (ids[2], "fail", {"reason": "no ink"}),
    ]
    for job_id, action, body in said:
        path = f"/queues/{queue}/jobs/{job_id}/{action}"
        lock = {"authorization": f"Bearer {locks[job_id]}"}
        assert pair.client.post(path, json=body, headers=lock).status_code == 204
    took_s = time.time() - began_at

    def counted() -> Samples | None:
        found = scrape(pair)
        return found if total(found, "toril_attempts_total", queue=queue) >= 3 else None

    found = eventually(counted, timeout_s=30)
    assert found is not None
    attempts = [has for name, has, value in found if name == "toril_attempts_total" and has["queue"] == queue]
    assert {(has["kind"], has["outcome"], has["verdict"]) for has in attempts} == {
        ("push_worker", "result", "complete"),
        ("push_worker", "error", "retry"),
        ("push_worker", "error", "fail"),
    }
    assert total(found, "toril_attempts_total", queue=queue) == 3
    assert total(found, "toril_attempt_duration_seconds_count", queue=queue, kind="push_worker") == 3
    assert 0 < total(found, "toril_attempt_duration_seconds_sum", queue=queue) < 3 * took_s + 1
    assert total(found, "toril_job_duration_seconds_count", queue=queue, verdict="complete") == 1
    pair.gateway.unregister(queue)


def test_an_outage_of_redis_is_shown_and_so_is_its_end(
    start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey)
    assert total(scrape(toril), "toril_redis_up") == 1
    valkey.stop()
    eventually(lambda: total(scrape(toril), "toril_redis_up") == 0, timeout_s=30)
    valkey.start()
    eventually(lambda: total(scrape(toril), "toril_redis_up") == 1, timeout_s=30)
    eventually(lambda: total(scrape(toril), REDIS_RECONNECTS.name, connection="commands") >= 1, timeout_s=30)


def alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_each_alert_has_a_runbook_in_the_docs() -> None:
    told, named = set(), set()
    for alert, url in runbooks((DEPLOY / "alerts.yaml").read_text()):
        page, _, anchor = url.partition("#")
        text = (DEPLOY.parent / page).read_text()
        told |= {line.removeprefix("## ").lower() for line in text.splitlines() if line.startswith("## ")}
        named.add(anchor)
        assert anchor == alert.lower()
    assert named == told, "a part for each alert, and no part without one"


def test_runbooks_become_links_into_the_docs_that_an_operator_serves(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs" / "how-to" / "alerts.md").read_text()
    (command,) = [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ DOCS=")]
    assert f"#   {command}" in (DEPLOY / "alerts.yaml").read_text().splitlines()
    run = command.replace("deploy/alerts.yaml > alerts.yaml", f"{DEPLOY}/alerts.yaml > {tmp_path}/alerts.yaml")
    subprocess.run(["/bin/sh", "-c", run], check=True)
    links = dict(runbooks((tmp_path / "alerts.yaml").read_text()))
    assert links == {name: f"https://docs.example.com/how-to/alerts/#{name.lower()}" for name in links}
    assert links["TorilDown"].endswith("#torildown")


def runbooks(alerts: str) -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(alerts)["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["annotations"]["runbook_url"]


def test_each_metric_of_targets_has_an_alert_and_a_panel() -> None:
    metrics = {name for name in OF_TARGETS if not name.endswith("_bucket")}
    for expressions in (alerts(), panels()):
        asked = {selector.name.removesuffix("_bucket") for _, text in expressions for selector in Seen(text).selectors}
        # An event that is not told needs a person, and no curve.
        assert metrics - asked <= {"toril_events_not_told_total"}


def panels() -> Iterator[tuple[str, str]]:
    for panel in json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            # What Grafana puts in before it asks: an interval, and everything that may be chosen.
            yield (
                panel["title"],
                target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$queue", ".*"),
            )


class Seen:
    """The metrics that an expression selects, and the labels that it groups by."""

    def __init__(self, expression: str) -> None:
        self.selectors: list[Any] = []
        self.labels: set[str] = set()
        self._look(promql.parse(expression))

    def _look(self, part: Any) -> None:
        if isinstance(part, promql.VectorSelector):
            self.selectors.append(part)
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            self.labels.update(part.modifier.labels)
        for name in ("lhs", "rhs", "expr", "vector_selector"):
            if getattr(part, name, None) is not None:
                self._look(getattr(part, name))
        for argument in getattr(part, "args", None) or ():
            self._look(argument)


EXPRESSIONS = [*alerts(), *panels()]


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=[f"{title}" for title, _ in EXPRESSIONS])
def test_metrics_and_labels_queried_in_deploy_exist(title: str, expression: str, samples: Samples) -> None:
    seen = Seen(expression)
    assert seen.selectors
    known: dict[str, set[str]] = {"up": set()} | {metric.name: set(metric.labels) for metric in METRICS}
    for metric in METRICS:
        if metric.buckets:
            known |= {f"{metric.name}{end}": set(metric.labels) for end in ("_count", "_sum")}
            known[f"{metric.name}_bucket"] = {*metric.labels, "le"}
    scraped = {name for name, _, _ in samples} | ONLY_IN_TROUBLE | OF_UPSTREAMS | OF_TARGETS | {"up"}
    for selector in seen.selectors:
        assert selector.name in known, f"{title}: there is no {selector.name}"
        assert selector.name in scraped, f"{title}: {selector.name} was not scraped"
        labels = known[selector.name] | TARGET_LABELS
        assert seen.labels <= labels, f"{title}: {selector.name} has no {seen.labels - labels}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, f"{title}: {selector.name} has no label {matcher.name}"
            if matcher.op == promql.MatchOp.Equal and matcher.name not in TARGET_LABELS and matcher.value != "5xx":
                values = {has.get(matcher.name) for name, has, _ in samples if name == selector.name}
                assert matcher.value in values, f"{title}: {matcher.name} is never {matcher.value}"


def test_the_expression_reader_finds_every_selector_and_label() -> None:
    seen = Seen("sum by (a) (rate(x{b='1'}[5m])) / (max(y) > 2) and on (c) z offset 1m")
    assert {selector.name for selector in seen.selectors} == {"x", "y", "z"}
    assert "a" in seen.labels
