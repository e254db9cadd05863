"""The stand-in in a thread of its own, as tests that start programs use it."""

from tests.cluster import objects
from tests.cluster.api_server import running_api_server
from tests.cluster.follower import Follower
from uproxy.model.service import Service
from uproxy.sources.kubernetes.access import Access


async def test_a_server_in_a_thread_goes_and_comes_back(certificates, tmp_path):
    with running_api_server(certificates) as running:
        running.put(objects.service("a"), objects.service("b"))
        kubeconfig = running.server.token_kubeconfig(tmp_path / "kubeconfig", tmp_path / "token")
        follower = Follower(Access(str(kubeconfig)))
        follower.start()
        await follower.until(lambda: follower.synced)
        running.stop()
        running.delete(objects.service("b"))
        running.start()
        await follower.until(lambda: set(follower.of(Service)) == {"default/a"})
        running.call(running.server.drop_all)
        running.put(objects.service("c"))
        await follower.until(lambda: set(follower.of(Service)) == {"default/a", "default/c"})
        await follower.stop()
