"""What is said of the links of Pods, from configurations as the plugins' pages have them."""

import json
from pathlib import Path
from typing import Any

import pytest

from uproxy.steering.pod_links import warning

PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def configured(folder: Path, **files: Any) -> str:
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return warning(folder)


def conflist(*plugins: dict[str, Any]) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [*plugins, PORTMAP]}


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan", "host-device"])
def test_links_beside_the_node_are_said(tmp_path: Path, kind: str) -> None:
    single = {"cniVersion": "0.3.1", "name": "pods", "type": kind, "master": "eth0"}
    assert f"attached by {kind}, beside this node" in configured(tmp_path, pods_conf=single)
    said = configured(tmp_path, pods_conf=conflist(single))
    assert said.endswith(f"({tmp_path / 'pods.conf'})")


def test_pods_by_ipvlan_that_the_node_routes_for_are_not_spoken_of(tmp_path: Path) -> None:
    ipvlan = {"type": "ipvlan", "master": "eth0"}
    assert configured(tmp_path, a_conf=ipvlan | {"mode": "l2"})
    assert not configured(tmp_path, a_conf=ipvlan | {"mode": "l3"})


def test_a_bridge_whose_gateway_is_elsewhere_is_said(tmp_path: Path) -> None:
    bridge = {"type": "bridge", "bridge": "cni0"}
    assert "the gateway of Pods is not this node" in configured(tmp_path, a_conflist=conflist(bridge))
    for gateway in ("isGateway", "isDefaultGateway"):
        assert not configured(tmp_path, a_conflist=conflist(bridge | {gateway: True}))


@pytest.mark.parametrize("kind", ["calico", "cilium-cni", "ptp", "flannel", "aws-cni"])
def test_other_plugins_are_not_spoken_of(tmp_path: Path, kind: str) -> None:
    assert not configured(tmp_path, a_conflist=conflist({"type": kind}))


def test_the_first_file_is_the_network_of_pods(tmp_path: Path) -> None:
    others = {"z_conf": {"type": "macvlan"}, "0_txt": {"type": "macvlan"}}
    assert not configured(tmp_path, a_conflist=conflist({"type": "calico"}), **others)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", '"plugins"', '{"plugins": []}', '{"plugins": [3]}', "[" * 9999]
)
def test_what_cannot_be_read_is_not_spoken_of(tmp_path: Path, text: str) -> None:
    assert not configured(tmp_path, a_conf=text)


def test_a_machine_without_configurations_is_not_spoken_of(tmp_path: Path) -> None:
    assert not warning(tmp_path / "missing")
