"""The files of a model folder that a coordinator needs."""

import hashlib
import pathlib
from collections.abc import Iterator

from quire.worker.v1 import worker_pb2 as pb

_NAMES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "chat_template.jinja")
_CHUNK_BYTES = 1 << 20


def read_model_files(folder: pathlib.Path) -> dict[str, bytes]:
    """Those that exist, by name. FileNotFoundError: there is no config.json."""
    files = {name: (folder / name).read_bytes() for name in _NAMES if (folder / name).is_file()}
    if "config.json" not in files:
        raise FileNotFoundError(f"no config.json in {folder}")
    return files


def chunks(files: dict[str, bytes]) -> Iterator[pb.FileChunk]:
    """Every file in pieces of at most 1 MiB, its digest with the first."""
    for name, content in sorted(files.items()):
        for offset in range(0, max(1, len(content)), _CHUNK_BYTES):
            digest = hashlib.sha256(content).digest() if offset == 0 else b""
            yield pb.FileChunk(name=name, data=content[offset:offset + _CHUNK_BYTES], sha256=digest)
