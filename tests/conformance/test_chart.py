"""The Helm chart: rendered by Helm, checked by kubeconform, and equal to the manifests in `deploy/kubernetes`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from scripts import dist

from tests.support.go_tools import BUILDING_S, go_tool
from tests.unit.deploy.manifests import DEPLOY, KUBERNETES, built

CHART = DEPLOY / "helm/toril"
SHAPES = ("one-process", "split", "per-target")
VERSION = "1.33.0"
KINDS = {
    "Deployment": "deployment-apps-v1",
    "PodDisruptionBudget": "poddisruptionbudget-policy-v1",
    "ConfigMap": "configmap-v1",
    "Service": "service-v1",
    "ServiceAccount": "serviceaccount-v1",
}
CHARTS_OWN = {"app.kubernetes.io/instance", "imagePullPolicy"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILDING_S)]


def template(folder: Path, values: dict[str, Any], *, release: str = "toril") -> subprocess.CompletedProcess[str]:
    """Render the chart; the values' file is in the folder."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [go_tool("helm"), "template", release, str(CHART), "--kube-version", VERSION, "--values", str(file)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def rendered(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    done = template(folder, values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document is not None]


def config() -> dict[str, Any]:
    """The configuration in the manifests."""
    (configured,) = (one for one in built(KUBERNETES / "common") if one["kind"] == "ConfigMap")
    read: dict[str, Any] = yaml.safe_load(configured["data"]["toril.yaml"])
    return read


def values(shape: str) -> dict[str, Any]:
    targets = {"perTarget": {"targets": {"billing": {"replicas": 2}, "email": {}}}} if shape == "per-target" else {}
    return {"shape": shape, "config": config(), **targets}


def plain(thing: Any) -> Any:
    """An object without what only a chart has, and with the configuration as it is read."""
    if isinstance(thing, dict):
        left = {
            key: plain(value)
            for key, value in thing.items()
            if key not in {"app.kubernetes.io/instance", "imagePullPolicy"}
        }
        if "toril.yaml" in left:
            left["toril.yaml"] = yaml.safe_load(left["toril.yaml"])
        return left
    return [plain(one) for one in thing] if isinstance(thing, list) else thing


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    return {(one["kind"], one["metadata"]["name"]): plain(one) for one in objects}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_chart_makes_the_objects_of_the_manifests(shape: str, tmp_path: Path) -> None:
    assert by_name(rendered(tmp_path, values(shape))) == by_name(built(KUBERNETES / shape))


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where kubeconform finds Kubernetes' schemas (kubernetes-validate's), each with what it refers to."""
    shipped = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{VERSION}-local-strict"
    folder = tmp_path_factory.mktemp("schemas")
    definitions = json.loads((shipped / "_definitions.json").read_text())["$defs"]
    for name in KINDS.values():
        schema = json.loads((shipped / f"{name}.json").read_text()) | {"$defs": definitions}
        del schema["$id"]  # what is referred to stands in the same file
        (folder / f"{name}.json").write_text(json.dumps(schema).replace("/api/_definitions.json#", "#"))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def kubeconform(schemas: str, manifest: str) -> subprocess.CompletedProcess[str]:
    command = [go_tool("kubeconform"), "-strict", "-summary", "-output", "json"]
    command += ["-kubernetes-version", VERSION, "-schema-location", schemas]
    return subprocess.run(command, input=manifest, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_kubeconform_finds_nothing_in_what_the_chart_makes(shape: str, schemas: str, tmp_path: Path) -> None:
    manifest = template(tmp_path, values(shape)).stdout
    done = kubeconform(schemas, manifest)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert summary["valid"] == len(rendered(tmp_path, values(shape)))
    assert (summary["invalid"], summary["errors"], summary["skipped"]) == (0, 0, 0)


def test_kubeconform_finds_a_fault(schemas: str, tmp_path: Path) -> None:
    manifest = template(tmp_path, values("split")).stdout
    assert "maxSkew: 1" in manifest
    done = kubeconform(schemas, manifest.replace("maxSkew: 1", "maxSkewed: 1"))
    assert done.returncode == 1
    assert "maxSkewed" in done.stdout


def test_helm_lint_finds_nothing(tmp_path: Path) -> None:
    command = [go_tool("helm"), "lint", str(CHART), "--strict", "--kube-version", VERSION]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"shape": "spilt"}, 'shape must be one-process, split or per-target, not "spilt"'),
        ({"shape": "per-target", "config": {"targets": {"billing": {}}}}, "and billing is not"),
        (
            {"shape": "per-target", "perTarget": {"targets": {"x": {}}}},
            "perTarget.targets names x, which config.targets",
        ),
        ({"secrets": {"connectionKeys": ["redis"]}}, "secrets.connectionKeys has redis, which toril does not read"),
    ],
)
def test_values_that_would_deliver_nothing_are_refused(given: dict[str, Any], fault: str, tmp_path: Path) -> None:
    done = template(tmp_path, given)
    assert done.returncode == 1
    assert fault in done.stderr


def test_helm_takes_the_chart_as_make_dist_packs_it(tmp_path: Path) -> None:
    packed = tmp_path / "toril-chart.tgz"
    dist.pack_chart(packed)
    command = [go_tool("helm"), "template", "toril", str(packed), "--kube-version", VERSION]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == template(tmp_path, {}).stdout


def test_two_releases_share_nothing(tmp_path: Path) -> None:
    one, other = (template(tmp_path, values("split"), release=name).stdout for name in ("one", "other"))
    assert "name: other" not in one
    assert not by_name([*yaml.safe_load_all(one)]).keys() & by_name([*yaml.safe_load_all(other)]).keys()
    services = [thing for thing in yaml.safe_load_all(one) if thing["kind"] == "Service"]
    assert services[0]["spec"]["selector"]["app.kubernetes.io/instance"] == "one"


def test_secrets_that_are_not_there_are_not_mounted(tmp_path: Path) -> None:
    made = rendered(tmp_path, {"secrets": {"targets": "", "connectionKeys": ["redis-url"]}})
    (pod,) = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"]
    assert [volume["name"] for volume in pod["volumes"]] == ["config"]
    assert [variable["name"] for variable in pod["containers"][0]["env"]] == ["REDIS_URL"]
