"""Clients of a service under overload, on one asyncio loop: each call is noted with how it went and when."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc as pb_grpc
from quire_client.errors import from_rpc_error


@dataclass
class Call:
    """One Generate call. Times are time.monotonic()."""

    tenant: str
    began_at: float
    status: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    retry_s: float | None = None  # RetryInfo's delay
    ended_at: float = 0.0
    first_token_at: float | None = None
    last_token_at: float = 0.0
    tokens: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        return self.status is grpc.StatusCode.OK

    @property
    def is_refused(self) -> bool:
        return self.status is grpc.StatusCode.RESOURCE_EXHAUSTED

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at

    @property
    def ttft_s(self) -> float:
        return self.first_token_at - self.began_at

    @property
    def tpot_s(self) -> float:
        return (self.last_token_at - self.first_token_at) / (len(self.tokens) - 1) if len(self.tokens) > 1 else 0.0


async def generate(stub: pb_grpc.InferenceStub, message: pb.GenerateRequest, timeout_s: float = 60.0) -> Call:
    call = Call(message.tenant, time.monotonic())
    stream = stub.Generate(message, timeout=timeout_s)
    try:
        async for event in stream:
            if event.WhichOneof("event") != "delta" or not event.delta.token_ids:
                continue
            call.last_token_at = time.monotonic()
            if call.first_token_at is None:
                call.first_token_at = call.last_token_at
            call.tokens += event.delta.token_ids
            call.token_times += [call.last_token_at] * len(event.delta.token_ids)
    except grpc.aio.AioRpcError as failure:
        error = from_rpc_error(failure)
        call.status, call.message, call.retry_s = error.code, error.message, error.retry_delay
    call.ended_at = time.monotonic()
    return call


async def open_loop(stub: pb_grpc.InferenceStub, make: Callable[[int], pb.GenerateRequest], rate: float,
                    seconds: float, seed: int, patience_s: float = 0.0) -> list[list[Call]]:
    """Requests of a Poisson process, each a task of its own: its calls. One that is refused is sent again after the
    delay that it was told, while it is younger than `patience_s`."""
    arrivals = random.Random(seed)
    tasks: list[asyncio.Task] = []
    began = due = time.monotonic()

    async def one(message: pb.GenerateRequest) -> list[Call]:
        calls = [await generate(stub, message)]
        while calls[-1].is_refused and calls[-1].retry_s is not None:
            if time.monotonic() + calls[-1].retry_s - calls[0].began_at > patience_s:
                break
            await asyncio.sleep(calls[-1].retry_s)
            calls.append(await generate(stub, message))
        return calls

    while (due := due + arrivals.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(make(len(tasks)))))
    return [await task for task in tasks]


async def closed_loop(stub: pb_grpc.InferenceStub, make: Callable[[int], pb.GenerateRequest], streams: int,
                      until: float, retry_s: float | None = None) -> list[Call]:
    """Streams that each send a request after the other until then (time.monotonic()). One that is refused waits for as
    long as it was told, or for `retry_s` whatever it was told."""
    calls: list[Call] = []

    async def one(number: int) -> None:
        count = 0
        while time.monotonic() < until:
            call = await generate(stub, make(number + streams * count))
            count += 1
            calls.append(call)
            if call.is_refused:
                pause = call.retry_s if retry_s is None else retry_s
                await asyncio.sleep(min(pause or 0.05, max(0.0, until - time.monotonic())))
            elif not call.is_ok and call.status is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise RuntimeError(f"{call.status}: {call.message}")

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(one(number))
    return calls
