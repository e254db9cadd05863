"""A certificate authority of a test's own, made by the program openssl."""

import shutil
from pathlib import Path

from uproxy.kit.commands import run

MISSING = None if shutil.which("openssl") else "there is no program openssl (Debian package openssl)"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")


class Authority:
    """Its certificates and keys are files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca.crt"

    async def make(self) -> None:
        """Make the authority itself, and a certificate for a server on loopback."""
        key, subject = self.directory / "ca.key", "/CN=stand-in authority"
        await _openssl("req", "-x509", *_KEY, "-subj", subject, "-keyout", key, "-out", self.certificate)
        await self.issue("server", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:api.example")

    async def issue(self, name: str, extension: str = "extendedKeyUsage=clientAuth") -> tuple[Path, Path]:
        """A certificate for `name`, and its key."""
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        signer = ("-CA", self.certificate, "-CAkey", self.directory / "ca.key")
        extensions = ("-addext", extension, "-addext", "basicConstraints=CA:FALSE")
        files = ("-keyout", key, "-out", certificate)
        await _openssl("req", "-x509", *_KEY, "-subj", f"/CN={name}", *signer, *extensions, *files)
        return certificate, key


async def _openssl(*arguments: str | Path) -> None:
    (await run("openssl", *map(str, arguments))).check()
