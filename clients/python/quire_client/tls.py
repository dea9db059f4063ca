"""What secures the connections to coordinators."""

import os
import pathlib
import ssl

import grpc

PathLike = str | os.PathLike[str]


def tls_credentials(cert: PathLike | None, key: PathLike | None, ca: PathLike | None,
                    credentials: grpc.ChannelCredentials | None = None) -> grpc.ChannelCredentials | None:
    """Of the PEM files for mutual TLS; `credentials` where none is given.

    ValueError: only some are given, both files and credentials are, or a file does not hold what it should. OSError: it
    cannot be read.
    """
    files = {"tls_cert": cert, "tls_key": key, "tls_ca": ca}
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == len(files):
        return credentials
    if missing:
        raise ValueError(f"{missing[0]} is missing: tls_cert, tls_key and tls_ca are given together or not at all")
    if credentials is not None:
        raise ValueError("credentials: not together with tls_cert, tls_key and tls_ca")
    content = {name: pathlib.Path(path).read_bytes() for name, path in files.items()}
    # gRPC says nothing of files that it cannot use until the first call, and then not which.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise ValueError(f"tls_cert {cert}, tls_key {key}: no certificate and its key without a passphrase, both in "
                         f"PEM format: {error.reason or error}") from None
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ValueError(f"tls_ca {ca}: no certificates in PEM format: {error.reason or error}") from None
    return grpc.ssl_channel_credentials(content["tls_ca"], content["tls_key"], content["tls_cert"])


def _no_passphrase() -> bytes:
    """Keeps OpenSSL from asking the terminal."""
    return b""
