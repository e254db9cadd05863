"""How to reach an API server, and as whom: the only door to the package `kubernetes`.

Owns the choice between a kubeconfig and a Pod's service account, tokens, certificates and exec plugins,
and that their rotation is noticed without a restart. Refuses to make requests.

The package runs in a thread, on an event loop of its own, so that neither its import nor its YAML nor
its subprocesses hold up traffic. Three of its habits are made up for here: it reads a `tokenFile` once,
it only logs an exec plugin that fails, and it passes a token on with its line end.
"""

import asyncio
import logging
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uproxy.kit.reading import read_regular
from uproxy.kit.threads import in_thread
from uproxy.sources.kubernetes.errors import AccessError
from uproxy.sources.kubernetes.exec_plugin import run_plugin
from uproxy.sources.kubernetes.kubeconfig import Fields, Kubeconfig, read_kubeconfig

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LOAD_TIMEOUT_S = 30.0
"""For an exec plugin, mostly; kubectl would wait for ever."""
_EXPIRY_MARGIN = timedelta(seconds=10)

log = logging.getLogger("uproxy.kubernetes")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one request needs; good until `Access.credentials` gives others."""

    server: str
    """`https://HOST:PORT`, perhaps with a path."""
    headers: Mapping[str, str]
    tls: ssl.SSLContext | bool
    server_name: str | None = None
    """Whom the server's certificate must be for, when that is not the host."""
    proxy: str | None = None


class Access:
    """Credentials for one API server, kept fresh."""

    def __init__(
        self, kubeconfig: str = "", master: str = "", service_account: Path = _SERVICE_ACCOUNT
    ) -> None:
        """`master` replaces the kubeconfig's server. Without either a Pod's service account is used."""
        self._door = _Door(Path(kubeconfig) if kubeconfig else None, master, service_account)
        self._lock = asyncio.Lock()
        self._loaded: _Loaded | None = None
        self._problem = ""
        self.reloads = 0
        """How often something was rotated."""

    async def credentials(self, rejected: Credentials | None = None) -> Credentials:
        """The credentials of this moment; given the ones that a server did not accept, others if there are.

        Raises AccessError when there are none. Once there were some, those stay while what they were
        made from cannot be read.
        """
        async with self._lock:
            known = self._loaded
            if known is None:
                self._loaded = known = await in_thread(self._door.load, None)
            elif known.credentials is rejected or await in_thread(_outdated, known):
                self._loaded = known = await self._reload(known)
            return known.credentials

    async def _reload(self, known: "_Loaded") -> "_Loaded":
        try:
            loaded = await in_thread(self._door.load, known)
        except AccessError as error:
            if str(error) != self._problem:
                log.warning("%s; going on with the credentials that were there", error)
            self._problem = str(error)
            return known
        self._problem = ""
        self.reloads += 1
        return loaded


class _Loaded(NamedTuple):
    credentials: Credentials
    files: Mapping[Path, bytes | None]
    """What they were made from, as it was."""
    tls_parts: tuple[object, ...]
    expires: datetime | None


def _outdated(known: _Loaded) -> bool:
    if known.expires is not None and datetime.now(UTC) >= known.expires - _EXPIRY_MARGIN:
        return True
    return any(_content(path) != content for path, content in known.files.items())


def _content(path: str | Path) -> bytes | None:
    try:
        return read_regular(path)
    except OSError:
        return None


class _Door(NamedTuple):
    """Where credentials are made from. Its methods block."""

    kubeconfig: Path | None
    master: str
    service_account: Path

    def load(self, before: _Loaded | None) -> _Loaded:
        """Make credentials. Raises AccessError."""
        if self.kubeconfig is not None:
            return self._from_kubeconfig(read_kubeconfig(self.kubeconfig), before)
        if self.master:
            return _Loaded(Credentials(self.master.rstrip("/"), {}, tls=True), {}, (), None)
        return self._from_service_account(before)

    def _from_service_account(self, before: _Loaded | None) -> _Loaded:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException
        from kubernetes.aio.config.incluster_config import InClusterConfigLoader

        token, authority = self.service_account / "token", self.service_account / "ca.crt"
        files = {path: _content(path) for path in (token, authority)}
        configuration = Configuration()
        try:
            loader: Any = InClusterConfigLoader  # the package has no types here
            loader(str(token), str(authority), False).load_and_set(configuration)
            return _loaded(configuration, files, before, None)
        except (ConfigException, OSError) as error:
            raise AccessError(
                f"no kubeconfig is given, and this is no Pod with a service account: {error}"
            ) from error

    def _from_kubeconfig(self, given: Kubeconfig, before: _Loaded | None) -> _Loaded:
        # Contents are noted before they are used: a change in between is then seen next time.
        files = {path: _content(path) for path in given.files}
        try:
            configuration, expires = asyncio.run(asyncio.wait_for(self._configure(given), _LOAD_TIMEOUT_S))
            return _loaded(configuration, files, before, expires)
        except TimeoutError as error:
            raise AccessError(
                f"kubeconfig {given.path}: no credentials within {_LOAD_TIMEOUT_S:.0f} s"
            ) from error
        except (OSError, ValueError) as error:
            raise AccessError(f"kubeconfig {given.path}: {_words(error)}") from error

    async def _configure(self, given: Kubeconfig) -> tuple["Configuration", datetime | None]:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException
        from kubernetes.aio.config.kube_config import KubeConfigLoader

        cluster = given.cluster | ({"server": self.master} if self.master else {})
        if not cluster.get("server"):
            raise ValueError("its cluster has no server")
        configuration = Configuration()
        try:
            user, expires = await _user(given.user, given.path.parent)
            loader: Any = KubeConfigLoader  # the package has no types here
            await loader(_alone(cluster, user)).load_and_set(configuration)
        except ConfigException as error:
            raise ValueError(str(error)) from error
        return configuration, expires


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"a certificate or key in it cannot be used: {error.reason or error}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _alone(cluster: Fields, user: Fields) -> dict[str, Any]:
    """A kubeconfig of one cluster and one user."""
    name = "it"
    return {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
    }


async def _user(given: Fields, base: Path) -> tuple[Fields, datetime | None]:
    """The user with a token or certificates in place of a file or a program that gives them."""
    rest = {key: value for key, value in given.items() if key not in ("exec", "tokenFile")}
    if given.get("tokenFile"):  # goes before `token`, as in client-go
        return rest | {"token": _token(Path(given["tokenFile"]))}, None
    if not given.get("exec"):
        return rest, None
    status = await run_plugin(given["exec"], base)
    given_now = {
        "token": status.token,
        "client-certificate-data": _base64(status.client_certificate_data),
        "client-key-data": _base64(status.client_key_data),
    }
    return rest | {key: text for key, text in given_now.items() if text}, status.expires


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _token(path: Path) -> str:
    """The content of a token file. Raises OSError and ValueError."""
    token = read_regular(path).decode().strip()
    if not token:
        raise ValueError(f"tokenFile {path} is empty")
    return token


def _loaded(
    configuration: "Configuration",
    files: Mapping[Path, bytes | None],
    before: _Loaded | None,
    expires: datetime | None,
) -> _Loaded:
    """Raises OSError and ValueError for certificates that cannot be used."""
    parts = _tls_parts(configuration)
    same = before is not None and before.tls_parts == parts
    credentials = Credentials(
        server=configuration.host.rstrip("/"),
        headers=_headers(configuration),
        tls=before.credentials.tls if before is not None and same else _tls(configuration),
        server_name=configuration.tls_server_name,
        proxy=configuration.proxy,
    )
    return _Loaded(credentials, files, parts, expires)


def _headers(configuration: "Configuration") -> Mapping[str, str]:
    authorization = configuration.api_key.get("BearerToken", "").strip()
    return {"Authorization": authorization} if authorization else {}


def _tls_parts(configuration: "Configuration") -> tuple[object, ...]:
    """All that a TLS context is made of; while that is the same, so is the context."""
    named = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    contents = (_content(path) if path else None for path in named)
    return (configuration.host.startswith("https:"), configuration.verify_ssl, *contents)


def _tls(configuration: "Configuration") -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https:"):
        return True
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # kubectl and kube-proxy accept authorities without all of RFC 5280's extensions.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        # With a password at hand, an encrypted key is an error, and not a prompt.
        context.load_cert_chain(configuration.cert_file, configuration.key_file, password="")
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
