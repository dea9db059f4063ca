#!/usr/bin/env python3
"""Makes the Python code of proto/: messages, gRPC stubs and type stubs.

    .venv/bin/python tools/generate_python_stubs.py [OUTPUT]

OUTPUT gets the package `quire` (quire.v1, quire.worker.v1); the default is clients/python, where the client
library expects it. The generated files are not committed: the build makes them.
"""

import pathlib
import sys

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTOS = ("quire/v1/inference.proto", "quire/worker/v1/worker.proto")


def generate(output: pathlib.Path) -> None:
    """Raises RuntimeError if protoc fails; it has printed why."""
    output.mkdir(parents=True, exist_ok=True)
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={output}",
                          f"--pyi_out={output}", f"--grpc_python_out={output}", *PROTOS])
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}")


if __name__ == "__main__":
    try:
        generate(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "clients" / "python")
    except RuntimeError as error:
        sys.exit(f"generate_python_stubs: {error}")
