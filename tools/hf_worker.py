#!/usr/bin/env python3
"""Serves a model through Hugging Face transformers' own generate(), as a worker of Quire.

    .venv/bin/python tools/hf_worker.py --model DIR --join HOST:PORT

The reference that Quire's engines are compared with: same protocol, same requests. One request at a time in arrival
order, as generate() is used; with --batch-size N up to N waiting greedy requests run as one padded batch. Flags that
quire-worker has mean the same here, and have the same environment twins (QUIRE_MAX_QUEUE).
"""

import argparse
import asyncio
import importlib.metadata
import ipaddress
import logging
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients" / "python"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

VERSION = "0.1.0"


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hf_worker", description=__doc__.split("\n\n")[0])

    from_environment: list[str] = []

    def add(name: str, default: object, text: str, **options: object) -> None:
        variable = "QUIRE_" + name.upper().replace("-", "_")
        parser.add_argument(f"--{name}", default=default, help=f"{text} ({variable})", **options)
        on_command_line = any(a == f"--{name}" or a.startswith(f"--{name}=") for a in arguments)
        if variable in os.environ and not on_command_line:
            from_environment.append(f"--{name}={os.environ[variable]}")

    add("model", None, "folder of the model, in Hugging Face format", type=pathlib.Path,
        required="QUIRE_MODEL" not in os.environ)
    add("served-model-name", "", "name for clients; default: the folder's")
    add("device", "auto", "auto (a GPU where there is one), cpu or cuda", choices=["auto", "cpu", "cuda"])
    add("dtype", "auto", "auto (the checkpoint's; on a GPU bf16), fp32 or bf16", choices=["auto", "fp32", "bf16"])
    add("load-format", "auto", "auto, or dummy: random weights from config.json alone", choices=["auto", "dummy"])
    add("baseline-cache", "dynamic", "the KV cache: dynamic (grows) or static (reserved at full length)",
        choices=["dynamic", "static"])
    add("max-model-len", 0, "context in tokens; 0: the model's", type=int)
    add("max-queue", 256, "sequences that may wait", type=int)
    add("num-threads", 0, "threads of torch's operators; 0: one a core", type=int)
    add("batch-size", 1, "sequences that run at once, as one padded batch (static batching)", type=int)
    add("batch-wait-ms", 20.0, "how long an incomplete batch waits for more", type=float)
    add("host", "127.0.0.1", "address to listen on")
    add("port", 0, "port to listen on; 0: a free one", type=int)
    add("worker-name", "", "name in GetLoad; default: the advertised address")
    add("advertise-address", "", "HOST:PORT where coordinators reach this worker; default: where it listens")
    add("drain-timeout", 30.0, "seconds that running requests get after SIGTERM", type=float)
    add("orphan-grace", 10.0, "seconds that the requests of a lost coordinator live on", type=float)
    add("join", [], "HOST:PORT of a coordinator to announce this worker to; repeats", action="append")
    parser.add_argument("--insecure", action="store_true", help="allow listening beyond this machine without encryption")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}, " + ", ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("transformers", "torch")))
    flags = parser.parse_args([*from_environment, *arguments])
    if not (flags.insecure or is_loopback(flags.host)):
        parser.error(f"refusing to listen on {flags.host}, which other machines can reach, without encryption: give "
                     "--insecure to allow it")
    for name in ("max_queue", "batch_size"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(flags, name)}: at least 1")
    return flags


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def main(arguments: list[str]) -> int:
    flags = parse_flags(arguments)
    if not (flags.model / "config.json").is_file():
        print(f"hf_worker: no config.json in {flags.model}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, datefmt="%Y-%m-%dT%H:%M:%S",
                        format="%(asctime)s.%(msecs)03d %(levelname).1s hf_worker %(message)s")
    for name, value in vars(flags).items():
        logging.info("setting %s=%s", name.replace("_", "-"), value)
    started = time.monotonic()
    # Torch takes seconds to import: a wrong setting shows before.
    from hf_reference.generation import Generator, GeneratorOptions
    from hf_reference.serving import serve

    try:
        generator = Generator(GeneratorOptions(
            folder=flags.model, device=flags.device, dtype=flags.dtype, cache=flags.baseline_cache,
            context_length=flags.max_model_len, num_threads=flags.num_threads,
            dummy_weights=flags.load_format == "dummy"))
    except (OSError, ValueError) as error:  # transformers names the file
        print(f"hf_worker: {error}", file=sys.stderr)
        return 2
    logging.info("model loaded in %.2f s: %s, transformers %s on %s, %d threads, %s KV cache",
                 time.monotonic() - started, generator.dtype, importlib.metadata.version("transformers"),
                 generator.device_name, generator.num_threads, flags.baseline_cache)
    return asyncio.run(serve(flags, generator, VERSION))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
