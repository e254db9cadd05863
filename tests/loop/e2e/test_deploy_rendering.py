"""deploy/ as kustomize renders it, where there is a kubectl."""

import shutil
from pathlib import Path

import pytest
import yaml

from uproxy.kit.commands import run

OVERLAYS = Path(__file__).parents[3] / "deploy" / "overlays"


TWO = ["NET_ADMIN", "NET_BIND_SERVICE"]


@pytest.mark.parametrize(
    ("overlay", "last", "capabilities"),
    [
        ("redirect", "--capture=redirect", TWO),
        ("redirect-iptables", "--redirect-mechanism=iptables", [*TWO, "NET_RAW"]),
        ("bind", "--capture=bind", TWO),
        ("tproxy", "--capture=tproxy", TWO),
    ],
)
async def test_overlays_render(overlay: str, last: str, capabilities: list[str]) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = (await run("kubectl", "kustomize", str(OVERLAYS / overlay))).check()
    objects = {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
    assert set(objects) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"}
    daemon_set = objects["DaemonSet"]
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    assert container["args"][-1] == last
    assert container["securityContext"]["capabilities"]["add"] == capabilities
    assert daemon_set["metadata"]["namespace"] == "kube-system"
