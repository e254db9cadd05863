"""deploy/ as kustomize renders it, where there is a kubectl."""

import shutil
from pathlib import Path

import pytest
import yaml

from uproxy.kit.commands import run

OVERLAYS = Path(__file__).parents[3] / "deploy" / "overlays"


@pytest.mark.parametrize("capture", ["redirect", "bind", "tproxy"])
async def test_overlays_render(capture: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = (await run("kubectl", "kustomize", str(OVERLAYS / capture))).check()
    objects = {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
    assert set(objects) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"}
    daemon_set = objects["DaemonSet"]
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    assert container["args"][-1] == f"--capture={capture}"
    assert daemon_set["metadata"]["namespace"] == "kube-system"
