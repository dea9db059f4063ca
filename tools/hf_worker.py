#!/usr/bin/env python3
"""Serves a model through Hugging Face transformers' own generate(), as a worker of Quire.

    .venv/bin/python tools/hf_worker.py --model DIR --join HOST:PORT

The reference that Quire's engines are compared with: same protocol, same requests. One request at a time in arrival
order, as generate() is used; with --batch-size N up to N waiting greedy requests run as one padded batch. Flags that
quire-worker has mean the same here, and have the same environment twins (QUIRE_MAX_QUEUE).
"""

import argparse
import asyncio
import hashlib
import ipaddress
import logging
import os
import pathlib
import secrets
import signal
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients" / "python"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import grpc  # noqa: E402
import grpc.aio  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha import reflection  # noqa: E402
from quire.v1 import inference_pb2 as api  # noqa: E402
from quire.worker.v1 import worker_pb2 as pb  # noqa: E402
from quire.worker.v1 import worker_pb2_grpc as pb_grpc  # noqa: E402

from hf_reference.engine import Engine  # noqa: E402
from hf_reference.generation import Generator, GeneratorOptions  # noqa: E402
from hf_reference.model_files import read_model_files  # noqa: E402
from hf_reference.service import WorkerService, announce  # noqa: E402
from hf_reference.session_table import Request, Session, SessionTable  # noqa: E402

VERSION = "0.1.0"
TICK_S = 0.25
MAX_MESSAGE_BYTES = 16 << 20


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
    add("dtype", "auto", "auto (the checkpoint's), fp32 or bf16")
    add("load-format", "auto", "auto, or dummy: random weights from config.json alone", choices=["auto", "dummy"])
    add("baseline-cache", "dynamic", "the KV cache: dynamic (grows) or static (reserved at full length)")
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}, transformers "
                        f"{transformers.__version__}, torch {torch.__version__}")
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


def worker_info(flags: argparse.Namespace, generator: Generator, model: str) -> pb.WorkerInfo:
    parts = {"engine": "transformers generate()", "transformers": transformers.__version__, "torch": torch.__version__,
             "weights": generator.weights_digest(), "dtype": generator.dtype, "cache": flags.baseline_cache,
             "batch_size": flags.batch_size, "num_threads": generator.num_threads}
    numerics_id = hashlib.sha256("".join(f"{k}={v}\n" for k, v in parts.items()).encode()).hexdigest()
    return pb.WorkerInfo(
        name=flags.worker_name, model=model, engine=api.HF_REFERENCE, numerics_id=numerics_id,
        context_length=generator.context_length, vocabulary_size=generator.vocabulary_size, dtype=generator.dtype,
        kv_cache=flags.baseline_cache, version=VERSION,
        kv=pb.KvGeometry(bytes_per_token=generator.kv_bytes_per_token),
        limits=pb.Limits(max_num_seqs=flags.batch_size, max_queue=flags.max_queue,
                         max_num_batched_tokens=generator.context_length * flags.batch_size))


def log_request(session: Session, request: Request) -> None:
    finishes = [choice.finish for choice in request.choices if choice.finish is not None]
    aborted = next((f for f in finishes if f.status_code != 0), None)
    status = grpc_status_name(aborted.status_code) if aborted else "OK" if finishes else "CANCELLED"
    first = request.first_token_at
    logging.info(
        "request id=%s status=%s choices=%d prompt=%d output=%d queued_ms=%.1f first_token_ms=%.1f total_ms=%.1f%s",
        request.request_id, status, len(request.choices), max((f.usage.prompt_tokens for f in finishes), default=0),
        sum(f.usage.output_tokens for f in finishes), max((f.timings.queued_ms for f in finishes), default=0.0),
        (first - request.arrived_at) * 1e3 if first is not None else -1.0,
        (time.monotonic() - request.arrived_at) * 1e3, f" why={aborted.status_message}" if aborted else "")


def grpc_status_name(code: int) -> str:
    return next((status.name for status in grpc.StatusCode if status.value[0] == code), str(code))


async def serve(flags: argparse.Namespace, generator: Generator, files: dict[str, bytes]) -> int:
    model = flags.served_model_name or flags.model.resolve().name
    table = SessionTable(worker_info(flags, generator, model), f"{secrets.token_hex(8)}-{os.getpid()}",
                         orphan_grace_s=flags.orphan_grace, on_request_end=log_request)
    engine = Engine(generator, table, max_queue=flags.max_queue, batch_size=flags.batch_size,
                    batch_wait_s=flags.batch_wait_ms / 1000)
    table.set_engine(engine)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    pb_grpc.add_WorkerServicer_to_server(WorkerService(table, model, files), server)
    health_service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection(
        [pb.DESCRIPTOR.services_by_name["Worker"].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    try:
        port = server.add_insecure_port(f"{flags.host}:{flags.port}")
    except RuntimeError as error:
        print(f"hf_worker: {error}", file=sys.stderr)
        return 2
    address = f"{flags.host}:{port}"
    table.worker.name = table.worker.name or flags.advertise_address or address
    await health_service.set(model, health_pb2.HealthCheckResponse.SERVING)
    await health_service.set("", health_pb2.HealthCheckResponse.SERVING)

    # A first signal drains, a second ends the process at once.
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(1) if stopping.is_set() else stopping.set())

    engine.start()
    await server.start()
    announcement = pb.WorkerStatus(address=flags.advertise_address or address, incarnation=table.incarnation,
                                   worker=table.worker)
    tasks = [asyncio.create_task(announce(coordinator, announcement, table.load, TICK_S)) for coordinator in flags.join]
    tasks.append(asyncio.create_task(tick(table)))
    print(f"hf_worker listening on {address}", flush=True)

    await stopping.wait()
    logging.info("draining for at most %.1f s", flags.drain_timeout)
    table.start_draining()
    await health_service.enter_graceful_shutdown()
    if not await table.wait_until_idle(flags.drain_timeout):
        table.end_all()
        await table.wait_until_idle(TICK_S)
        logging.warning("drain timeout: ended what was left")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await server.stop(1.0)
    await asyncio.to_thread(engine.stop)
    return 0


async def tick(table: SessionTable) -> None:
    while True:
        table.tick()
        await asyncio.sleep(TICK_S)


def main(arguments: list[str]) -> int:
    flags = parse_flags(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, datefmt="%Y-%m-%dT%H:%M:%S",
                        format="%(asctime)s.%(msecs)03d %(levelname).1s hf_worker %(message)s")
    for name, value in vars(flags).items():
        logging.info("setting %s=%s", name.replace("_", "-"), value)
    started = time.monotonic()
    try:
        files = read_model_files(flags.model)
        generator = Generator(GeneratorOptions(
            folder=flags.model, dtype=flags.dtype, cache=flags.baseline_cache, context_length=flags.max_model_len,
            num_threads=flags.num_threads, dummy_weights=flags.load_format == "dummy"))
    except (OSError, ValueError) as error:
        print(f"hf_worker: {error}", file=sys.stderr)
        return 2
    logging.info("model loaded in %.2f s: %s, transformers %s, %d threads, %s KV cache", time.monotonic() - started,
                 generator.dtype, transformers.__version__, generator.num_threads, flags.baseline_cache)
    return asyncio.run(serve(flags, generator, files))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
