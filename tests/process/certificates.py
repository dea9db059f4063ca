"""Certificates for tests, made by the openssl command line as docs/operations.md tells."""

import pathlib
import subprocess

import grpc


class Authority:
    """An authority in a folder of its own, which issues certificates there."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.ca = self.folder / "ca.pem"
        self._key = self.folder / "ca-key.pem"
        _openssl("req", "-x509", *_new_key(self._key), "-days", "1", "-subj", f"/CN={name}",
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", self.ca)

    def issue(self, name: str, hosts: str = "IP:127.0.0.1,DNS:localhost", *options: str) -> "Identity":
        """A certificate for servers at `hosts` (subjectAltNames) and for clients, valid for a day."""
        identity = Identity(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem", self.ca)
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", *_new_key(identity.key), "-subj", f"/CN={name}", "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-out",
                 identity.cert, "-extfile", extensions, *(options or ("-days", "1")))
        return identity


class Identity:
    """The three files that a process needs."""

    def __init__(self, cert: pathlib.Path, key: pathlib.Path, ca: pathlib.Path) -> None:
        self.cert, self.key, self.ca = cert, key, ca

    @property
    def flags(self) -> list[object]:
        return ["--tls-cert", self.cert, "--tls-key", self.key, "--tls-ca", self.ca]

    @property
    def arguments(self) -> dict[str, pathlib.Path]:
        """As the Python client takes them."""
        return {"tls_cert": self.cert, "tls_key": self.key, "tls_ca": self.ca}

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), self.key.read_bytes(), self.cert.read_bytes())


def _new_key(path: pathlib.Path) -> list[object]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
