"""Ways to an API server, and that none needs a restart when a credential is rotated."""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.api_server import CLIENT, replace
from tests.cluster.follower import Follower
from tests.loop.rig import until
from uproxy.model.service import Service
from uproxy.sources.kubernetes import access as access_module
from uproxy.sources.kubernetes.access import Access
from uproxy.sources.kubernetes.errors import AccessError
from uproxy.sources.kubernetes.exec_plugin import run_plugin


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kubeconfig"


async def trusts_nobody(server, path):
    """Have a follower refuse the server's certificate, and ask for nothing."""
    follower = Follower(Access(str(path)))
    follower.start()
    await follower.until(lambda: follower.status("services").failures >= 2)
    await follower.stop()
    assert "the server's certificate is not accepted" in follower.status("services").last_error
    assert not server.requests


async def reaches(server, access) -> Follower:
    """A follower that had to get through with `access`, and has."""
    server.storage.put(objects.service("a"))
    follower = Follower(access)
    follower.start()
    try:
        await follower.until(lambda: follower.synced and server.watching == 3)
        assert follower.of(Service)
    finally:
        await follower.stop()
    return follower


async def follow_rotation(server, access, rotate) -> Follower:
    """Follow through a rotation, which ends every connection."""
    follower = Follower(access)
    follower.start()
    try:
        await follower.until(lambda: follower.synced and server.watching == 3)
        await rotate()
        server.drop_all()
        server.storage.put(objects.service("after"))
        await follower.until(lambda: "default/after" in follower.of(Service))
    finally:
        await follower.stop()
    return follower


def plugin(tmp_path, status, *before: str) -> dict:
    """An exec plugin that gives `status`; `runs` has a line for each time that it ran."""
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    (tmp_path / "credential").write_text(json.dumps(credential))
    script = tmp_path / "plugin"
    lines = ("#!/bin/sh", f"echo run >> {tmp_path}/runs", *before, f"cat {tmp_path}/credential")
    script.write_text("\n".join(lines))
    script.chmod(0o700)
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin"}


def runs(tmp_path) -> int:
    return len((tmp_path / "runs").read_text().splitlines())


class TestTokens:
    async def test_a_rotated_token_file_is_read_again(self, server, path, tmp_path):
        token_file = tmp_path / "token"
        access = Access(str(server.token_kubeconfig(path, token_file)))

        async def rotate():
            server.tokens = {"second-token"}
            replace(token_file, "second-token\n")

        follower = await follow_rotation(server, access, rotate)
        assert access.reloads == 1
        assert not any(status.denied for status in follower.source.status)

    async def test_a_token_that_is_refused_is_asked_for_again_at_once(self, server, path, tmp_path):
        exec_ = plugin(tmp_path, {"token": "first-token"})
        access = Access(str(server.kubeconfig(path, {"exec": exec_})))

        async def rotate():
            server.tokens = {"second-token"}
            plugin(tmp_path, {"token": "second-token"})

        follower = await follow_rotation(server, access, rotate)
        assert runs(tmp_path) == 2
        assert not any(status.denied for status in follower.source.status)

    async def test_a_token_in_the_kubeconfig_itself(self, server, path):
        access = Access(str(server.kubeconfig(path, {"token": "first-token"})))

        async def rotate():
            server.tokens = {"second-token"}
            server.kubeconfig(path, {"token": "second-token"})

        await follow_rotation(server, access, rotate)

    async def test_credentials_that_cannot_be_read_any_more_stay_as_they_were(
        self, server, path, tmp_path, caplog
    ):
        token_file = tmp_path / "token"
        access = Access(str(server.token_kubeconfig(path, token_file)))
        first = await access.credentials()
        token_file.unlink()
        with caplog.at_level(logging.WARNING, "uproxy.kubernetes"):
            assert await access.credentials() is first
            assert await access.credentials(rejected=first) is first
        (record,) = caplog.records
        assert "No such file or directory" in record.getMessage()

    async def test_the_tls_context_outlives_a_token(self, server, path, tmp_path):
        token_file = tmp_path / "token"
        access = Access(str(server.token_kubeconfig(path, token_file)))
        first = await access.credentials()
        replace(token_file, "another")
        second = await access.credentials()
        assert second.headers == {"Authorization": "Bearer another"}
        assert second.tls is first.tls

    async def test_unchanged_files_are_not_loaded_again(self, server, path, tmp_path):
        access = Access(str(server.token_kubeconfig(path, tmp_path / "token")))
        assert await access.credentials() is await access.credentials()

    async def test_several_that_are_refused_at_once_share_a_reload(self, server, path, tmp_path):
        exec_ = plugin(tmp_path, {"token": "first-token"})
        access = Access(str(server.kubeconfig(path, {"exec": exec_})))
        first = await access.credentials()
        others = await asyncio.gather(*(access.credentials(rejected=first) for _ in range(3)))
        assert len(set(map(id, others))) == 1
        assert runs(tmp_path) == 2


class TestPlugins:
    async def test_an_expired_token_is_not_used_again(self, server, path, tmp_path):
        expired = {"token": "first-token", "expirationTimestamp": "2020-01-01T00:00:00Z"}
        access = Access(str(server.kubeconfig(path, {"exec": plugin(tmp_path, expired)})))
        await access.credentials()
        await access.credentials()
        assert runs(tmp_path) == 2

    async def test_a_plugin_may_give_a_certificate(self, server, path, tmp_path):
        certificate, key = await server.authority.issue(CLIENT)
        status = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
        await reaches(server, Access(str(server.kubeconfig(path, {"exec": plugin(tmp_path, status)}))))

    @pytest.mark.parametrize(
        ("before", "status", "words"),
        [
            pytest.param(("echo no login >&2; exit 3",), {}, "exit 3: no login", id="fails"),
            pytest.param((), {}, "gave neither a token nor", id="gives nothing"),
            pytest.param(("echo hello",), {}, "its output is no ExecCredential", id="says something else"),
        ],
    )
    async def test_a_plugin_that_fails_is_told_in_one_line(
        self, server, path, tmp_path, before, status, words
    ):
        exec_ = plugin(tmp_path, status, *before)
        with pytest.raises(AccessError, match=words) as caught:
            await Access(str(server.kubeconfig(path, {"exec": exec_}))).credentials()
        assert "\n" not in str(caught.value)

    async def test_a_plugin_that_is_not_there(self, server, path):
        exec_ = {"apiVersion": "v1", "command": "no-such-plugin", "installHint": "Get it at example.com."}
        words = "no-such-plugin: No such file or directory. Get it at example.com"
        with pytest.raises(AccessError, match=words):
            await Access(str(server.kubeconfig(path, {"exec": exec_}))).credentials()

    async def test_a_plugin_that_hangs_is_killed(self, server, path, tmp_path, monkeypatch):
        monkeypatch.setattr(access_module, "_LOAD_TIMEOUT_S", 1.0)
        fifo = tmp_path / "fifo"
        exec_ = plugin(tmp_path, {}, f"echo $$ >{tmp_path}/pid", f"exec 3<>{fifo}", "read line <&3")
        os.mkfifo(fifo)
        with pytest.raises(AccessError, match="no credentials within"):
            await Access(str(server.kubeconfig(path, {"exec": exec_}))).credentials()
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
    async def test_a_plugin_ends_with_us_and_so_does_what_it_has_started(self, tmp_path, how):
        """SIGKILL is not seen by anybody: the kernel ends the plugin itself then."""
        a_family(tmp_path)
        ours = await asyncio.create_subprocess_exec(sys.executable, "-c", WAITS.format(folder=str(tmp_path)))
        try:
            await until((tmp_path / "pid").exists)
            ours.send_signal(how)
            await ours.wait()
            await until(lambda: is_over(int((tmp_path / "pid").read_text())))
            child = int((tmp_path / "child").read_text())
            await until(lambda: how == signal.SIGKILL or is_over(child))
        finally:
            for name in ("pid", "child"):
                with suppress(OSError, ValueError):
                    os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)

    async def test_a_plugin_that_is_given_up_as_it_starts_is_ended_with_what_it_has_started(
        self, tmp_path, monkeypatch
    ):
        a_family(tmp_path)
        start = asyncio.create_subprocess_exec

        async def given_up(*argv, **how):
            process = await start(*argv, **how)
            await until((tmp_path / "pid").exists)
            asked.cancel()
            await asyncio.sleep(0)
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", given_up)
        asked = asyncio.ensure_future(run_plugin({"apiVersion": "v1", "command": "./plugin"}, tmp_path))
        with pytest.raises(asyncio.CancelledError):
            await asked
        child = int((tmp_path / "child").read_text())
        try:
            await until(lambda: is_over(child))
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def a_family(folder: Path) -> None:
    """A plugin that starts another program, says who both are, and stays."""
    (folder / "plugin").write_text(
        f"#!/bin/sh\nsleep 1000 & echo $! >{folder}/child.new\necho $$ >{folder}/pid.new\n"
        f"mv {folder}/child.new {folder}/child; mv {folder}/pid.new {folder}/pid; wait\n"
    )
    (folder / "plugin").chmod(0o755)


WAITS = """
import asyncio, signal
from pathlib import Path
from uproxy.sources.kubernetes.exec_plugin import run_plugin

async def main():
    asked = asyncio.ensure_future(run_plugin({{"apiVersion": "v1", "command": "./plugin"}}, Path("{folder}")))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.cancel)
    await asyncio.wait([asked])

asyncio.run(main())
"""


def is_over(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class TestCertificates:
    async def test_a_rotated_client_certificate_is_used(self, server, path, tmp_path):
        certificate, key = tmp_path / "client.crt", tmp_path / "client.key"

        async def rotate(name=CLIENT):
            issued = await server.authority.issue(name)
            for source, target in zip(issued, (certificate, key), strict=True):
                shutil.copy(source, target)
            server.client_names = {name}

        await rotate()
        server.tokens = set()
        user = {"client-certificate": "client.crt", "client-key": "client.key"}
        access = Access(str(server.kubeconfig(path, user)))
        first = (await access.credentials()).tls
        await follow_rotation(server, access, lambda: rotate("system:somebody-else"))
        assert (await access.credentials()).tls is not first

    async def test_certificates_in_the_kubeconfig_itself(self, server, path):
        certificate, key = await server.authority.issue(CLIENT)
        data = {
            "client-certificate-data": b64encode(certificate.read_bytes()).decode(),
            "client-key-data": b64encode(key.read_bytes()).decode(),
        }
        await reaches(server, Access(str(server.kubeconfig(path, data))))

    async def test_a_server_of_another_authority_is_not_trusted(self, server, path, tmp_path):
        config = json.loads(server.kubeconfig(path, {"token": "first-token"}).read_text())
        del config["clusters"][0]["cluster"]["certificate-authority"]
        path.write_text(json.dumps(config))
        await trusts_nobody(server, path)

    async def test_verification_can_be_switched_off(self, server, path):
        config = json.loads(server.kubeconfig(path, {"token": "first-token"}).read_text())
        cluster = config["clusters"][0]["cluster"]
        del cluster["certificate-authority"], cluster["tls-server-name"]
        cluster["insecure-skip-tls-verify"] = True
        path.write_text(json.dumps(config))
        await reaches(server, Access(str(path)))

    async def test_the_name_in_the_certificate_may_be_another_than_the_hosts(self, server, path):
        config = json.loads(server.kubeconfig(path, {"token": "first-token"}).read_text())
        cluster = config["clusters"][0]["cluster"]
        assert cluster["tls-server-name"] == "localhost"
        cluster["tls-server-name"] = "somebody-else"
        path.write_text(json.dumps(config))
        await trusts_nobody(server, path)

    async def test_paths_are_relative_to_the_kubeconfig(self, server, tmp_path, monkeypatch):
        folder, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        certificate, key = await server.authority.issue(CLIENT)
        for source, name in (
            (server.authority.certificate, "ca.crt"),
            (certificate, "client.crt"),
            (key, "client.key"),
        ):
            shutil.copy(source, folder / name)
        user = {"client-certificate": "client.crt", "client-key": "./client.key"}
        config = json.loads(server.kubeconfig(folder / "kubeconfig", user).read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = "../etc/ca.crt"
        (folder / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.chdir(elsewhere)
        await reaches(server, Access("../etc/kubeconfig"))

    async def test_a_token_file_is_relative_to_the_kubeconfig_too(self, server, tmp_path, monkeypatch):
        (tmp_path / "token").write_text("first-token")
        path = server.kubeconfig(tmp_path / "kubeconfig", {"tokenFile": "token"})
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await reaches(server, Access(str(path)))

    async def test_an_encrypted_key_is_an_error_and_not_a_prompt(self, server, path, tmp_path):
        from uproxy.kit.commands import run

        certificate, key = await server.authority.issue(CLIENT)
        locked = tmp_path / "locked.key"
        arguments = ("-aes128", "-passout", "pass:secret", "-in", str(key), "-out", str(locked))
        (await run("openssl", "ec", *arguments)).check()
        user = {"client-certificate": str(certificate), "client-key": str(locked)}
        with pytest.raises(AccessError, match="a certificate or key in it cannot be used"):
            await Access(str(server.kubeconfig(path, user))).credentials()


class TestServers:
    async def test_master_replaces_the_server(self, server, path):
        port, server.port = server.port, 1
        access = Access(str(server.kubeconfig(path, {"token": "first-token"})), f"https://127.0.0.1:{port}/")
        await reaches(server, access)
        server.port = port

    async def test_master_alone_is_enough_for_a_server_that_asks_for_nothing(self):
        credentials = await Access("", "http://127.0.0.1:8080/").credentials()
        assert (credentials.server, credentials.headers) == ("http://127.0.0.1:8080", {})

    async def test_a_pod_has_a_service_account(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        (tmp_path / "token").write_text("first-token\n")
        shutil.copy(server.authority.certificate, tmp_path / "ca.crt")
        access = Access(service_account=tmp_path)

        async def rotate():
            server.tokens = {"second-token"}
            replace(tmp_path / "token", "second-token\n")

        await follow_rotation(server, access, rotate)

    async def test_the_environments_kubeconfig_is_not_read(self, server, path, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("KUBECONFIG", f"{server.kubeconfig(path, {'token': 'first-token'})}:/absent")
        with pytest.raises(AccessError, match="no kubeconfig is given"):
            await Access(service_account=path.parent / "absent").credentials()

    async def test_no_kubeconfig_and_no_pod(self, tmp_path, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with pytest.raises(AccessError, match="no kubeconfig is given, and this is no Pod"):
            await Access(service_account=tmp_path).credentials()

    async def test_a_source_without_credentials_ends(self, tmp_path):
        follower = Follower(Access(str(tmp_path / "absent")))
        with pytest.raises(AccessError, match="absent: No such file or directory"):
            await follower.source.run()


CLUSTERS = [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443"}}]
CONTEXTS = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
USERS = [{"name": "u", "user": {}}]
WHOLE = {"current-context": "x", "contexts": CONTEXTS, "clusters": CLUSTERS, "users": USERS}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("{", "is not YAML: line 1: expected the node content", id="not YAML"),
        pytest.param("[]", "Expected `object`, got `array`", id="a list"),
        pytest.param({}, "has no current-context", id="empty"),
        pytest.param(WHOLE | {"contexts": []}, "has no context 'x'", id="no context"),
        pytest.param(WHOLE | {"clusters": None}, "has no cluster 'c'", id="no cluster"),
        pytest.param(WHOLE | {"users": []}, "has no user 'u'", id="no user"),
        pytest.param(WHOLE | {"clusters": [{"name": "c", "cluster": {}}]}, "has no server", id="no server"),
        pytest.param(
            WHOLE | {"users": [{"name": "u", "user": {"client-certificate": "absent"}}]},
            "/absent",
            id="certificate absent",
        ),
        pytest.param(
            WHOLE | {"users": [{"name": "u", "user": {"tokenFile": "absent"}}]},
            "/absent: No such file or directory",
            id="token absent",
        ),
        pytest.param(
            WHOLE | {"users": [{"name": "u", "user": {"client-certificate-data": "!"}}]},
            "a certificate or key in it cannot be used",
            id="data that is none",
        ),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_line(path, content, words):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AccessError) as caught:
        await Access(str(path)).credentials()
    assert str(caught.value).startswith(f"kubeconfig {path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class TestOtherFields:
    async def test_the_authority_in_the_kubeconfig_itself(self, server, path):
        config = json.loads(server.kubeconfig(path, {"token": "first-token"}).read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = server.authority.certificate.read_bytes()
        del cluster["certificate-authority"]
        cluster["certificate-authority-data"] = b64encode(authority).decode()
        config["contexts"][0]["context"]["namespace"] = "of-no-meaning-here"
        path.write_text(json.dumps(config))
        await reaches(server, Access(str(path)))

    async def test_a_proxy_on_the_way(self, server, path):
        asked = []

        async def tunnel(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head.split(b"\r\n", 1)[0].decode())
            there, back = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)

        async def pass_on(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
            finally:
                sink.close()

        proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        config = json.loads(server.kubeconfig(path, {"token": "first-token"}).read_text())
        where = proxy.sockets[0].getsockname()[1]
        config["clusters"][0]["cluster"]["proxy-url"] = f"http://127.0.0.1:{where}"
        path.write_text(json.dumps(config))
        await reaches(server, Access(str(path)))
        proxy.close()
        assert set(asked) == {f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"}
