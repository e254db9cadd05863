"""Moves, and what is left by whom."""

import asyncio
import sys

import pytest

from tests.kernel.inside.stage import (
    EXTERNAL,
    VIPS,
    Stage,
    even,
    run,
    spread,
    state,
    who,
)
from tests.netns.e2e.callers import echoes, is_refused, name_from, who_answers
from tests.netns.e2e.servers import TCP_PORT, UDP_PORT
from tests.proxy_process import connected, eventually
from uproxy.errors import CommandFailed
from uproxy.handoff import ipvs_machine
from uproxy.handoff.ipvs import IpvsHandoff
from uproxy.handoff.plan import KernelPort
from uproxy.kernel.conntrack import Conntrack
from uproxy.kernel.ipvs import OURS


async def killed_after(stage: Stage, step: str) -> None:
    """Have another process hand a Service over, which is killed as it comes to a step of it; at the end if
    the step has no name."""
    script = f"""
import asyncio, os, signal
from ipaddress import ip_address
from uproxy.handoff.ipvs import *
from uproxy.handoff.plan import KernelVip
async def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
async def main():
    handoff = IpvsHandoff(Conntrack())
    await handoff.begin(())
    if "{step}":
        ipvs_rules.{step or "step"} = die
    for protocol, port, target in ((Protocol.TCP, 80, {TCP_PORT}), (Protocol.UDP, 53, {UDP_PORT})):
        vip = Vip(ip_address("{VIPS[0]}"), port, protocol)
        backends = Backend(ip_address("{stage.pods[0].host.ip4}"), target),
        name = ServicePortName("default", "web4", "", protocol)
        await handoff.put([KernelPort(name, (KernelVip(vip, backends, backends),))])
    await die()
asyncio.run(main())
"""
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await killed.wait() == -9


async def test_after_a_kill_connections_go_on_and_new_ones_are_the_relays(stage: Stage) -> None:
    before = state()
    await killed_after(stage, "")
    assert await who(stage.client, VIPS[0]) == "pod1"
    async with connected(stage.client, (VIPS[0], 80)) as (reader, writer):
        await name_from(reader)
        handoff = IpvsHandoff(Conntrack())
        await handoff.begin(())
        assert await echoes(reader, writer)
        assert await who(stage.client, VIPS[0]) == "relay"
        assert await who_answers(stage.client, (VIPS[0], 53), "UDP") == "relay"
        await handoff.put([stage.port(VIPS[0], stage.pods[1:])])
        assert await echoes(reader, writer)
        assert await spread(stage.client, VIPS[0], 4) == {"pod2": 2, "pod3": 2}
        pod1, pod2, pod3 = (stage.backend(pod) for pod in stage.pods)

        async def are_counted_anew() -> bool:
            found = {backend: its.connections for (_, backend), its in (await handoff.look()).counts.items()}
            # What the kernel had not added up when it began is told once more.
            return found[pod1] <= 2 and found[pod2] == found[pod3] == 2

        await eventually(are_counted_anew, "connections")
    assert await ipvs_machine.remove() != []
    assert state() == before
    assert await ipvs_machine.remove() == []
    await handoff.close()
    assert await who(stage.client, VIPS[0]) == "relay"


async def test_the_last_endpoint_goes_and_its_connections_go_on(stage: Stage, handoff: IpvsHandoff) -> None:
    for vip in VIPS:
        family = 4 if vip == VIPS[0] else 6
        await handoff.put([stage.port(vip)])
        async with connected(stage.client, (vip, 80)) as (reader, writer):
            await name_from(reader)
            # As capture does it.
            run(f"ipset add UPROXY-REJECT{family} {vip},tcp:80")
            assert await echoes(reader, writer)
            await handoff.take([stage.port(vip).name])
            run(f"ipset del UPROXY-VIP{family} {vip},tcp:80")
            assert await is_refused(stage.client, (vip, 80))
            assert await echoes(reader, writer)
            run(f"ipset add UPROXY-VIP{family} {vip},tcp:80")
            run(f"ipset del UPROXY-REJECT{family} {vip},tcp:80")


async def test_what_is_not_ours_is_left_alone(stage: Stage, handoff: IpvsHandoff) -> None:
    pod = stage.pods[0].host.ip4
    run("ipvsadm -A -t 10.96.0.1:80 -s wlc")
    run(f"ipvsadm -a -t 10.96.0.1:80 -r {pod}:9 -m")
    before = run("ipvsadm -S -n")
    await handoff.put([stage.port(EXTERNAL)])
    name = stage.port(EXTERNAL).name._replace(name="other")
    clash = KernelPort(name, stage.port(VIPS[0]).vips)
    with pytest.raises(CommandFailed, match=r"10\.96\.0\.1:80/TCP is somebody else's"):
        await handoff.put([stage.port(EXTERNAL, stage.pods[:1]), clash])
    assert await spread(stage.client, EXTERNAL, 6) == even(stage, 2)  # nothing of it was taken
    assert "10.96.0.1" not in run("ipset save UPROXY_IPVS4") + run("ip route show table local protocol 118")
    await handoff.begin(())
    await handoff.close()
    assert run("ipvsadm -S -n") == before


async def test_a_flush_is_noticed(stage: Stage, handoff: IpvsHandoff) -> None:
    run("ipvsadm -C")  # what the test before has left
    await handoff.put([stage.port(VIPS[0])])
    run("ipvsadm -C")
    with pytest.raises(CommandFailed):
        await handoff.look()
    await handoff.begin(())
    await handoff.put([stage.port(VIPS[0])])
    assert await spread(stage.client, VIPS[0], 3) == even(stage, 1)


async def test_it_works_here(stage: Stage) -> None:
    before = state()
    assert await ipvs_machine.refusal_here() is None
    assert state() == before
    assert f"{OURS:#x}" == "0x75700000"
    run("sysctl -w net.ipv4.ip_forward=0")
    try:
        assert "ip_forward" in (await ipvs_machine.refusal_here() or "")
    finally:
        run("sysctl -w net.ipv4.ip_forward=1")


@pytest.mark.parametrize("step", ["route", "move"])
async def test_a_kill_in_the_middle_of_a_move_is_repaired(stage: Stage, step: str) -> None:
    before = state()
    await killed_after(stage, step)
    assert "10.96.0.1:80" in run("ipvsadm -S -n")
    assert await who(stage.client, VIPS[0]) == "relay"
    handoff = IpvsHandoff(Conntrack())
    await handoff.begin(())
    assert run("ipvsadm -S -n") == ""
    assert await who(stage.client, VIPS[0]) == "relay"
    await handoff.put([stage.port(VIPS[0])])
    assert await spread(stage.client, VIPS[0], 3) == even(stage, 1)
    await handoff.close()
    assert state() == before
