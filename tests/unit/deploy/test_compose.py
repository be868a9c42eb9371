"""deploy/docker-compose.yaml: its configuration, its command, its variables, and who waits for whom."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.manifests import DEPLOY, documents, role_of, settings
from toril.config.settings import Settings
from toril.core.times import parse_duration_s

BEHIND_GRACE_S = 10.0
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+):\?[^}]+\}")
PLACEHOLDER = "made-up"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (document,) = documents(DEPLOY / "docker-compose.yaml")
    return document


@pytest.fixture
def held(compose: dict[str, Any], tmp_path: Path) -> Settings:
    """The settings of the toril in it. Faults fail the test."""
    toril = compose["services"]["toril"]
    (mounted,) = toril["configs"]
    assert toril["command"][toril["command"].index("--config") + 1] == mounted["target"]
    environment = {name: VARIABLE.sub(PLACEHOLDER, value) for name, value in toril["environment"].items()}
    assert not any("$" in value for value in environment.values())
    return settings(compose["configs"][mounted["source"]]["content"], {}, environment, tmp_path)


def test_the_compose_command_has_the_role_all(compose: dict[str, Any]) -> None:
    assert role_of(compose["services"]["toril"]["command"]).name == "all"


def test_the_configuration_is_valid_and_uses_every_store(compose: dict[str, Any], held: Settings) -> None:
    services = compose["services"]
    assert held.redis.host in services
    assert re.fullmatch(r"postgresql://toril:made-up@(\w+):5432/toril", held.ledger.url)
    assert re.search(r"@(\w+):", held.ledger.url)[1] in services  # type: ignore[index]
    assert re.fullmatch(r"http://(\w+):9000", held.payloads.endpoint or "")
    assert re.match(r"http://(\w+):", held.payloads.endpoint or "")[1] in services  # type: ignore[index]
    assert held.targets
    assert held.gateway.auth_tokens == (PLACEHOLDER,)
    (port,) = services["toril"]["ports"]
    assert port.endswith(f":{held.port}")


def test_the_bucket_that_is_made_is_the_one_that_is_used(compose: dict[str, Any], held: Settings) -> None:
    (made,) = re.findall(r"mc mb --ignore-existing store/(\w+)", compose["services"]["bucket"]["entrypoint"][-1])
    assert (held.payloads.url or "").startswith(f"s3://{made}/")


def test_no_service_starts_before_its_dependencies(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert (condition["condition"], "restart" in services[name]) == (
                    "service_completed_successfully",
                    False,
                )
    assert set(services["toril"]["depends_on"]) == {"valkey", "postgres", "bucket"}


def test_jobs_in_flight_may_end_before_it_is_killed(compose: dict[str, Any], held: Settings) -> None:
    stop_s = parse_duration_s(compose["services"]["toril"]["stop_grace_period"])
    assert stop_s >= 2 * held.shutdown.delay_s + held.engine.grace_s + BEHIND_GRACE_S


def test_valkey_persists_its_data_and_never_evicts(compose: dict[str, Any]) -> None:
    command = compose["services"]["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {"--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"}


def test_images_are_pinned_and_data_is_kept(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "toril":
            assert re.fullmatch(r"[\w/]+:[\w.-]*\d[\w.-]*", service["image"]), name
    mounted = {volume.partition(":")[0] for one in compose["services"].values() for volume in one.get("volumes", ())}
    assert mounted == set(compose["volumes"]) == {"valkey-data", "postgres-data", "minio-data"}


def test_every_variable_is_asked_for_in_the_example(compose: dict[str, Any]) -> None:
    asked = set(VARIABLE.findall((DEPLOY / "docker-compose.yaml").read_text()))
    offered = re.findall(r"^(\w+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE)
    assert asked == {name for name, _ in offered}
    assert {value for _, value in offered} == {""}
