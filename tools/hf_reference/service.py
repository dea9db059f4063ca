"""The gRPC edge of the worker: sessions, model files, and announcing it to coordinators."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
from quire.worker.v1 import worker_pb2 as pb
from quire.worker.v1 import worker_pb2_grpc as pb_grpc

from hf_reference.model_files import chunks
from hf_reference.session_table import Connection, SessionTable

JOIN_RETRY_S = 0.5
# gRPC's own pauses between connection attempts grow to minutes. The least pause is its name for an attempt's limit.
_JOIN_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 5_000),
                 ("grpc.max_reconnect_backoff_ms", 400),
                 # As common/keepalive.h has them: a coordinator that is gone without a word is noticed.
                 ("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000),
                 ("grpc.http2.max_pings_without_data", 0))


class WorkerService(pb_grpc.WorkerServicer):
    def __init__(self, table: SessionTable, model: str, files: dict[str, bytes]) -> None:
        self._table = table
        self._model = model
        self._files = files

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: grpc.aio.ServicerContext) -> None:
        connection = Connection()
        reader = asyncio.create_task(self._read(requests, connection))
        writer = asyncio.create_task(self._write(connection, context))
        overflow = asyncio.create_task(connection.overflowed.wait())
        try:
            await asyncio.wait([writer, overflow], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer, overflow):
                task.cancel()
            self._table.lost(connection)
        if connection.error is not None:
            await context.abort(*connection.error)

    async def _read(self, requests: AsyncIterator[pb.SessionRequest], connection: Connection) -> None:
        try:
            async for request in requests:
                self._table.handle(connection, request)
        finally:
            self._table.lost(connection)
            connection.finish()

    async def _write(self, connection: Connection, context: grpc.aio.ServicerContext) -> None:
        while (event := await connection.next_event()) is not None:
            await context.write(event)

    async def GetModelFiles(self, request: pb.GetModelFilesRequest, context: grpc.aio.ServicerContext) -> None:
        if request.model and request.model != self._model:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"this worker serves {self._model}, not {request.model}")
        for chunk in chunks(self._files):
            await context.write(chunk)


async def announce(coordinator: str, announcement: pb.WorkerStatus, load: Callable[[], pb.Load],
                   tick_s: float) -> None:
    """Joins a coordinator and keeps it informed, again and again, until the task is cancelled."""
    async with grpc.aio.insecure_channel(coordinator, _JOIN_OPTIONS) as channel:
        stub = pb_grpc.RegistryStub(channel)
        while True:
            try:
                await _join_once(stub, coordinator, announcement, load, tick_s)
            except grpc.aio.AioRpcError as error:
                logging.debug("coordinator %s: %s %s", coordinator, error.code().name, error.details())
            await asyncio.sleep(JOIN_RETRY_S)


async def _join_once(stub: pb_grpc.RegistryStub, coordinator: str, announcement: pb.WorkerStatus,
                     load: Callable[[], pb.Load], tick_s: float) -> None:
    call = stub.Join()
    listener = asyncio.create_task(_listen(call, coordinator))
    try:
        first = pb.WorkerStatus()
        first.CopyFrom(announcement)
        first.load.CopyFrom(load())
        first.draining = first.load.draining
        await call.write(first)
        while not listener.done():
            await asyncio.wait([listener], timeout=tick_s)
            now = load()
            await call.write(pb.WorkerStatus(load=now, draining=now.draining))
    except asyncio.InvalidStateError:
        pass  # the call has ended; the listener knows how
    finally:
        call.cancel()
        await asyncio.gather(listener, return_exceptions=True)
    listener.result()


async def _listen(call: grpc.aio.StreamStreamCall, coordinator: str) -> None:
    greeted = False
    try:
        async for reply in call:
            if reply.refused:
                logging.warning("coordinator %s refuses this worker: %s", coordinator, reply.refused)
            elif not greeted:
                logging.info("joined coordinator %s", coordinator)
                greeted = True
    finally:
        if greeted:
            logging.warning("coordinator %s is gone", coordinator)
