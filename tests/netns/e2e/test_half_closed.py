"""A client that has finished sending may wait for its answer longer than conntrack cares to remember."""

import asyncio
import socket

from tests.netns.e2e.servers import TCP_PORT
from tests.netns.e2e.stage import WEB, Stage, web
from tests.proxy_process import PATIENCE_S, nonblocking

CLOCK = "net.netfilter.nf_conntrack_tcp_timeout_close_wait"
REMEMBERED_S = 3


async def test_an_answer_may_come_after_conntrack_forgets_half_closed_connections(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    pod = stage.pods[0]
    pod.kill()  # its port is wanted here
    stage.node.run("sysctl", "-w", f"{CLOCK}={REMEMBERED_S}")
    listener = pod.host.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", TCP_PORT))
    listener.listen()
    listener.setblocking(False)
    async with stage.proxy(web([pod])):
        with nonblocking(stage.client, WEB[0], socket.SOCK_STREAM) as client, listener:
            async with asyncio.timeout(PATIENCE_S):
                await loop.sock_connect(client, WEB[0])
                server, _ = await loop.sock_accept(listener)
                with server:
                    client.shutdown(socket.SHUT_WR)
                    assert await loop.sock_recv(server, 100) == b""
                    await asyncio.sleep(3 * REMEMBERED_S)  # the clock itself is what is tested
                    await loop.sock_sendall(server, b"at last")
                assert await loop.sock_recv(client, 100) == b"at last"
                assert await loop.sock_recv(client, 100) == b""
