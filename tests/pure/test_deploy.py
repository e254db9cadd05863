"""deploy/: what is applied to a cluster fits this program, and asks for no more than it needs."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pure.kube_proxy_files import KUBEADM
from uproxy.settings import Surroundings, add_run_flags, parse_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
CAPTURES = ("redirect", "bind", "tproxy")

NEEDED = {
    ("", "services"): {"list", "watch"},
    ("discovery.k8s.io", "endpointslices"): {"list", "watch"},
    ("", "nodes"): {"list", "watch"},
    ("events.k8s.io", "events"): {"create"},
}
"""What the sources and the Events ask an API server for."""


def read(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    """The base's objects by kind, of which there is one each."""
    listed = read(DEPLOY / "base" / "kustomization.yaml")[0]["resources"]
    found = [each for name in listed for each in read(DEPLOY / "base" / name)]
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


@pytest.fixture
def pod(objects) -> dict[str, Any]:
    return objects["DaemonSet"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


def test_every_file_is_listed_and_of_a_known_kind(objects):
    files = {path.name for path in (DEPLOY / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(read(DEPLOY / "base" / "kustomization.yaml")[0]["resources"])
    assert set(objects) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"}


def test_rights_are_those_needed_and_no_others(objects):
    given = {
        (group, resource): set(rule["verbs"])
        for rule in objects["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert given == NEEDED


def test_the_role_is_bound_to_the_account_that_runs(objects, pod):
    binding, role = objects["ClusterRoleBinding"], objects["ClusterRole"]["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": role,
    }
    assert subject["kind"] == "ServiceAccount"
    assert subject["name"] == pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert subject["namespace"] == read(DEPLOY / "base" / "kustomization.yaml")[0]["namespace"]


def test_labels_select_the_pods(objects):
    spec = objects["DaemonSet"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_it_runs_on_every_node_before_others(pod):
    assert pod["hostNetwork"] is True
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]


def test_a_new_pod_waits_beside_the_old_one_and_takes_over(objects, container):
    rolling = objects["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": 0, "maxSurge": 1}
    assert settings(container["args"]).take_over
    # On the node's network a port would be a host port, which one pod of a node can have.
    assert "ports" not in container


def test_privileges_are_two_capabilities(container):
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]}
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert "privileged" not in security


def test_probes_ask_what_is_served(container):
    paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: get["path"] for kind, get in paths.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/healthz",
    }
    assert {get["port"] for get in paths.values()} == {settings(container["args"]).healthz_address[1]}


def test_images_name_no_registry():
    for path in DEPLOY.rglob("*.yaml"):
        for image in re.findall(r"image: *(\S+)", path.read_text()):
            assert re.fullmatch(r"[a-z]+:[\w.-]+", image), f"{path}: {image}"


def test_every_mount_has_its_volume(pod, container):
    assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_the_drain_ends_within_the_grace_period(pod, container):
    assert settings(container["args"]).drain_timeout_s < pod["terminationGracePeriodSeconds"]


def settings(args: list[str]):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_run_flags(parser)
    assert args[0] == "run"
    return parse_settings(parser.parse_args(args[1:]), Surroundings(), KUBEADM)


@pytest.mark.parametrize("capture", CAPTURES)
def test_each_overlay_adds_its_capture_to_arguments_that_are_understood(container, capture):
    overlay = read(DEPLOY / "overlays" / capture / "kustomization.yaml")[0]
    assert overlay["resources"] == ["../../base"]
    (change,) = yaml.safe_load(overlay["patches"][0]["patch"])
    assert (change["op"], change["path"]) == ("add", "/spec/template/spec/containers/0/args/-")
    assert change["value"] == f"--capture={capture}"
    if capture == "tproxy" and "tproxy" not in captures():
        pytest.skip("--capture tproxy is not there yet")
    found = settings([*container["args"], change["value"]])
    assert (found.capture, found.from_cluster, found.notes) == (capture, True, ())


def captures() -> tuple[str, ...]:
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    (action,) = (each for each in parser._actions if "--capture" in each.option_strings)
    return tuple(action.choices)
