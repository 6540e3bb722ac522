"""Certificates for tests, made with the openssl lines of the page on streaming."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dsin.runtime.link.rpc import Certificates

PAGE = Path(__file__).resolve().parents[2] / ".docs" / "streaming.md"


class Authority:
    """An authority in a folder of its own: `server` and cameras of any rig."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("making certificates needs openssl, which is not on the PATH")
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._authority, self._server, self._rig = readme_lines()
        self._run(self._authority)
        self._run(self._server)
        self.server = self._files("server")

    def rig(self, name: str) -> Certificates:
        """For a camera of that rig."""
        self._run(self._rig.replace("front", name))
        return self._files(name)

    def expired(self, name: str) -> Certificates:
        """As `rig`, but its time ended yesterday."""
        self._run(
            "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
            f"-subj /CN={name} -keyout {name}.key -out {name}.csr && openssl x509 -req "
            f"-in {name}.csr -CA ca.pem -CAkey ca.key -days -1 -out {name}.pem"
        )
        return self._files(name)

    def issued_by_rig(self, issuer: str, name: str) -> Certificates:
        """What a rig that signs with its own key can make: a certificate for another rig."""
        line = self._rig.replace("front", name)
        self._run(line.replace("ca.pem", f"{issuer}.pem").replace("ca.key", f"{issuer}.key"))
        files = self._files(name)
        chain = files.certificate.read_bytes() + (self.folder / f"{issuer}.pem").read_bytes()
        files.certificate.write_bytes(chain)
        return files

    def _files(self, name: str) -> Certificates:
        return Certificates(*(self.folder / n for n in ("ca.pem", f"{name}.pem", f"{name}.key")))

    def _run(self, line: str) -> None:
        subprocess.run(line, shell=True, cwd=self.folder, check=True, capture_output=True)


def readme_lines() -> tuple[str, str, str]:
    """The page's lines that make the authority, the server's certificate and a rig's."""
    block = re.search(r"<!-- certificates -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    key, authority, server, rig = (
        line for line in block[1].replace("\\\n", " ").splitlines() if line.strip()
    )
    return f"{key}; {authority}", f"{key}; {server}", f"{key}; {rig}"
