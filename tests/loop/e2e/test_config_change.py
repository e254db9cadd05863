"""`uproxy run --config`: read, told about, and the end of the process when it changes."""

import json
from pathlib import Path

from tests.loop.conftest import free_port
from tests.proxy_process import UPROXY, ProxyProcess, ThisMachine
from tests.pure.kube_proxy_files import HEAD
from uproxy.kit.commands import run

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "echo.yaml")


async def test_a_changed_file_ends_the_process_in_good_order_with_status_1(
    prefix: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "config.conf"
    metrics, healthz = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    fields = {
        "metricsBindAddress": f"{metrics[0]}:{metrics[1]}",
        "healthzBindAddress": f"{healthz[0]}:{healthz[1]}",
        "mode": "iptables",
    }
    file.write_text(json.dumps(HEAD | fields))
    log = tmp_path / "uproxy.log"
    arguments = ("-f", EXAMPLE, "--config", str(file), "--masquerade-all")
    async with ProxyProcess(
        ThisMachine(), *arguments, log=log, metrics=metrics, healthz=healthz, prefix=prefix
    ) as running:
        assert "of no meaning here, and ignored: --masquerade-all" in running.log
        assert "ignored beside --config, as by kube-proxy: --healthz-bind-address" in running.log
        file.write_text(json.dumps(HEAD | fields | {"mode": "ipvs"}))
        assert await running.status() == 1
        assert "stopping: 0 connections are open" in running.log
        assert f"uproxy: {file} has changed: ended, to be started again" in running.log


async def test_mistakes_of_the_file_and_of_flags_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "config.conf"
    file.write_text(json.dumps(HEAD | {"hostnameOverride": 3, "oomScoreAdj": "x"}))
    done = await run(*UPROXY, "run", "--config", str(file), "--connect-timeout", "soon")
    assert done.status == 1
    assert len(done.stderr.splitlines()) == 3
    assert f"uproxy: {file}: KubeProxyConfiguration: hostnameOverride: " in done.stderr
