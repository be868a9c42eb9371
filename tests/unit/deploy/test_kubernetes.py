"""Each shape in deploy/kubernetes against Kubernetes' own schemas, and against what toril serves and takes."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.unit.deploy.manifests import KUBERNETES, ROOT, built, containers, documents, role_of, settings
from toril.config.settings import Settings
from toril.web.access_control import Access
from toril.web.operations.status import StatusRoutes

VERSIONS = ("1.30", "1.33", kubernetes_validate.latest_version())
SHAPES = ("one-process", "split", "per-target")
FILES = sorted(KUBERNETES.rglob("*.yaml"))
BEHIND_GRACE_S = 10.0


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return built(KUBERNETES / request.param)


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [thing for thing in objects if thing["kind"] == kind]


def secrets() -> dict[str, dict[str, str]]:
    """The keys of the secrets that deployments may count on."""
    return {one["metadata"]["name"]: one["stringData"] for one in documents(KUBERNETES / "secrets.example.yaml")}


def selects(selector: dict[str, str], thing: dict[str, Any]) -> bool:
    return selector.items() <= thing["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(KUBERNETES)))
def test_every_object_keeps_to_the_schema_of_its_kind(file: Path, version: str) -> None:
    for document in documents(file):
        if document["kind"] != "Kustomization":
            kubernetes_validate.validate(document, version, strict=True)


def test_every_file_belongs_to_a_shape() -> None:
    named = set()
    for kustomization in KUBERNETES.rglob("kustomization.yaml"):
        named |= {(kustomization.parent / name).resolve() for name in documents(kustomization)[0]["resources"]}
    left = {file for file in FILES if file.name not in {"kustomization.yaml", "secrets.example.yaml"}} - named
    assert left == set()


def test_no_two_objects_of_a_shape_are_the_same(shape: list[dict[str, Any]]) -> None:
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in shape]
    assert len(names) == len(set(names))


def test_every_target_has_exactly_one_deployment_that_delivers_to_it(
    shape: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Every target has exactly one deployment that delivers to it, and so has all other work; one answers."""
    (config,) = of_kind(shape, "ConfigMap")
    for container, pod, thing in containers(shape):
        held = configured(config, container, pod, tmp_path)
        roles = {other["metadata"]["name"]: role_of(one["args"]) for one, _, other in containers(shape)}
        names = [target.name for target in held.targets]
        assert names
        for name in names:
            assert sum(role.delivers_to(name) for role in roles.values()) == 1
        assert sum(role.works for role in roles.values()) == 1
        assert sum(role.answers for role in roles.values()) == 1
        assert all(name in names for role in roles.values() for name in role.targets or ())
        assert (role_of(container["args"]).answers) == (
            thing["spec"]["template"]["metadata"]["labels"].get("answers") == "http"
        )


def configured(config: dict[str, Any], container: dict[str, Any], pod: dict[str, Any], folder: Path) -> Settings:
    """The settings of a container: its environment, its configuration file, its secret files. Faults fail the test."""
    environment = {}
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        environment[variable["name"]] = secrets()[reference["name"]][reference["key"]]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    files = {}
    for mount in container["volumeMounts"]:
        assert "subPath" not in mount, "it would not be updated"
        volume = volumes.pop(mount["name"])
        if "configMap" in volume:
            assert volume["configMap"]["name"] == config["metadata"]["name"]
            (name,) = config["data"]
            arguments = container["args"]
            assert arguments[arguments.index("--config") + 1] == f"{mount['mountPath']}/{name}"
        else:
            content = secrets()[volume["secret"]["secretName"]]
            files |= {f"{mount['mountPath']}/{key}": value for key, value in content.items()}
    assert volumes == {}
    (text,) = config["data"].values()
    return settings(text, files, environment, folder)


def test_the_configuration_is_valid_where_it_is_mounted(shape: list[dict[str, Any]], tmp_path: Path) -> None:
    (config,) = of_kind(shape, "ConfigMap")
    for container, pod, _ in containers(shape):
        held = configured(config, container, pod, tmp_path)
        assert held.redis.host != Settings().redis.host
        assert held.ledger.url != Settings().ledger.url
        assert held.payloads.url is not None
        (port,) = container["ports"]
        assert port["containerPort"] == held.port


def test_probes_use_routes_that_need_no_token(shape: list[dict[str, Any]]) -> None:
    async def well() -> list[str]:
        return []

    open_paths = {route.path for route in StatusRoutes("1", well).routes() if route.access is Access.OPEN}
    for container, _, _ in containers(shape):
        (port,) = container["ports"]
        probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert {probe["port"] for probe in probes.values()} == {port["name"]}
        assert {probe["path"] for probe in probes.values()} <= open_paths
        # A restart heals no Redis: being alive must not depend on it, and being ready must.
        assert (probes["livenessProbe"]["path"], probes["readinessProbe"]["path"]) == ("/health", "/ready")


def test_services_budgets_and_selectors_find_their_pods(shape: list[dict[str, Any]]) -> None:
    deployments = of_kind(shape, "Deployment")
    (service,) = of_kind(shape, "Service")
    (behind,) = [thing for thing in deployments if selects(service["spec"]["selector"], thing)]
    assert role_of(behind["spec"]["template"]["spec"]["containers"][0]["args"]).answers
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {"http"}
    (account,) = of_kind(shape, "ServiceAccount")
    assert not account["automountServiceAccountToken"]
    for thing in deployments:
        labels = thing["spec"]["selector"]["matchLabels"]
        assert [other for other in deployments if selects(labels, other)] == [thing]
        budgets = [
            budget
            for budget in of_kind(shape, "PodDisruptionBudget")
            if selects(budget["spec"]["selector"]["matchLabels"], thing)
        ]
        assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [1]
        assert thing["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_pods_may_do_nothing_that_toril_does_not_need(shape: list[dict[str, Any]]) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for container, pod, _ in containers(shape):
        assert pod["securityContext"]["runAsNonRoot"]
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
            int(user[1]),
            int(user[2]),
        )
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_jobs_in_flight_may_end_before_a_pod_is_killed(shape: list[dict[str, Any]], tmp_path: Path) -> None:
    (config,) = of_kind(shape, "ConfigMap")
    for container, pod, _ in containers(shape):
        settings = configured(config, container, pod, tmp_path)
        wanted_s = 2 * settings.shutdown.delay_s + settings.engine.grace_s + BEHIND_GRACE_S
        assert pod["terminationGracePeriodSeconds"] >= wanted_s
        assert "lifecycle" not in container, "nothing has to be waited for before SIGTERM"


def test_images_are_pinned(shape: list[dict[str, Any]]) -> None:
    for container, _, _ in containers(shape):
        assert re.fullmatch(r"toril:\d+\.\d+\.\d+", container["image"])
