"""The worker as a server: ready, serving, draining."""

import argparse
import asyncio
import hashlib
import logging
import os
import secrets
import signal
import sys
import time

import grpc
import grpc.aio
import torch
import transformers
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from quire.v1 import inference_pb2 as api
from quire.worker.v1 import worker_pb2 as pb
from quire.worker.v1 import worker_pb2_grpc as pb_grpc

from hf_reference.engine import Engine
from hf_reference.generation import Generator
from hf_reference.model_files import read_model_files
from hf_reference.service import WorkerService, announce
from hf_reference.session_table import Request, Session, SessionTable

_TICK_S = 0.25
# What coordinators get to read what is left once all is generated: this worker cannot know that they have.
_READING_S = 10.0
_MAX_MESSAGE_BYTES = 16 << 20
# The pings are as common/keepalive.h has them: coordinators send one after 20 s of silence.
_SERVER_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                   ("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000),
                   ("grpc.http2.max_pings_without_data", 0),
                   ("grpc.http2.min_ping_interval_without_data_ms", 10_000))


def _worker_info(flags: argparse.Namespace, generator: Generator, model: str, version: str) -> pb.WorkerInfo:
    parts = {"engine": "transformers generate()", "transformers": transformers.__version__, "torch": torch.__version__,
             "weights": generator.weights_digest(), "device": generator.device_name, "dtype": generator.dtype,
             "cache": flags.baseline_cache, "batch_size": flags.batch_size, "num_threads": generator.num_threads}
    numerics_id = hashlib.sha256("".join(f"{k}={v}\n" for k, v in parts.items()).encode()).hexdigest()
    return pb.WorkerInfo(
        name=flags.worker_name, model=model, engine=api.HF_REFERENCE, numerics_id=numerics_id,
        context_length=generator.context_length, vocabulary_size=generator.vocabulary_size, dtype=generator.dtype,
        kv_cache=flags.baseline_cache, version=version,
        kv=pb.KvGeometry(bytes_per_token=generator.kv_bytes_per_token),
        limits=pb.Limits(max_num_seqs=flags.batch_size, max_queue=flags.max_queue,
                         max_num_batched_tokens=generator.context_length * flags.batch_size))


def _log_request(session: Session, request: Request) -> None:
    finishes = [choice.finish for choice in request.choices if choice.finish is not None]
    aborted = next((f for f in finishes if f.status_code != 0), None)
    status = _status_name(aborted.status_code) if aborted else "OK" if finishes else "CANCELLED"
    first = request.first_token_at
    logging.info(
        "request id=%s status=%s choices=%d prompt=%d output=%d queued_ms=%.1f first_token_ms=%.1f total_ms=%.1f%s",
        request.request_id, status, len(request.choices), max((f.usage.prompt_tokens for f in finishes), default=0),
        sum(f.usage.output_tokens for f in finishes), max((f.timings.queued_ms for f in finishes), default=0.0),
        (first - request.arrived_at) * 1e3 if first is not None else -1.0,
        (time.monotonic() - request.arrived_at) * 1e3, f" why={aborted.status_message}" if aborted else "")


def _status_name(code: int) -> str:
    return next((status.name for status in grpc.StatusCode if status.value[0] == code), str(code))


async def serve(flags: argparse.Namespace, generator: Generator, version: str) -> int:
    """Until a termination signal and the drain that follows it; gives the exit code. `flags` as hf_worker.py has them."""
    model = flags.served_model_name or flags.model.resolve().name
    table = SessionTable(_worker_info(flags, generator, model, version), f"{secrets.token_hex(8)}-{os.getpid()}",
                         orphan_grace_s=flags.orphan_grace, on_request_end=_log_request)
    engine = Engine(generator, table, max_queue=flags.max_queue, batch_size=flags.batch_size,
                    batch_wait_s=flags.batch_wait_ms / 1000)
    table.set_engine(engine)

    health_service = health.aio.HealthServicer()
    try:
        server, port = _build_server(WorkerService(table, model, read_model_files(flags.model)), health_service,
                                     f"{flags.host}:{flags.port}")
    except RuntimeError as error:
        print(f"hf_worker: {error}", file=sys.stderr)
        return 2
    address = f"{flags.host}:{port}"
    table.worker.name = table.worker.name or flags.advertise_address or address
    for name in (model, ""):
        await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)

    # A first signal drains, a second ends the process at once.
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(1) if stopping.is_set() else stopping.set())

    engine.start()
    await server.start()
    announcement = pb.WorkerStatus(address=flags.advertise_address or address, incarnation=table.incarnation,
                                   worker=table.worker)
    tasks = [asyncio.create_task(announce(coordinator, announcement, table.load, _TICK_S)) for coordinator in flags.join]
    tasks.append(asyncio.create_task(_tick(table)))
    print(f"hf_worker listening on {address}", flush=True)

    await stopping.wait()
    await health_service.enter_graceful_shutdown()
    await _drain(table, flags.drain_timeout)
    table.close()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await server.stop(_READING_S)
    await asyncio.to_thread(engine.stop)
    return 0


async def _drain(table: SessionTable, timeout_s: float) -> None:
    """Refuses what comes, and waits for what lives; ends it when the time has passed."""
    logging.info("draining for at most %.1f s", timeout_s)
    table.start_draining()
    if await table.wait_until_idle(timeout_s):
        return
    table.end_all()
    await table.wait_until_idle(_TICK_S)
    logging.warning("drain timeout: ended what was left")


def _build_server(service: WorkerService, health_service: health.aio.HealthServicer,
                  address: str) -> tuple[grpc.aio.Server, int]:
    """Not started yet, and its port. RuntimeError: it cannot listen there."""
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    pb_grpc.add_WorkerServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection(
        [pb.DESCRIPTOR.services_by_name["Worker"].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return server, server.add_insecure_port(address)


async def _tick(table: SessionTable) -> None:
    while True:
        table.tick()
        await asyncio.sleep(_TICK_S)
