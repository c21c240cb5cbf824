"""A private certificate authority, as hosting providers have one for their databases."""

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Authority:
    """An authority in a folder. certificate: its file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.certificate, self._key = folder / "authority.pem", folder / "authority.key"
        # Required by Python since 3.13.
        use = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _run_openssl(
            "-subj", "/CN=Test Authority", *use, "-keyout", str(self._key), "-out", str(self.certificate)
        )

    def sign(self, host: str) -> tuple[Path, Path]:
        """Make a certificate for the name of a host; return its file and that of its key."""
        certificate, key = self._folder / f"{host}.pem", self._folder / f"{host}.key"
        name = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
        authority = ("-CA", str(self.certificate), "-CAkey", str(self._key))
        use = ("-addext", "basicConstraints=critical,CA:FALSE")
        _run_openssl(*name, *use, *authority, "-keyout", str(key), "-out", str(certificate))
        return certificate, key


def _run_openssl(*arguments: str) -> None:
    subprocess.run(["openssl", "req", "-x509", *_KEY, *arguments], check=True, capture_output=True)
