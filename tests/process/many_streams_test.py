"""Many streams at once: all finish, none starves, memory stays small."""

import asyncio
import time
import unittest
from dataclasses import dataclass, field

import grpc.aio
from harness import HANG_S, TINY, VOLUME, Stage, figure, lasting, main, scaled
from quire.v1 import inference_pb2_grpc as pb_grpc
from service import Service, request


@dataclass
class Progress:
    """Of streams that run together."""

    tokens: list[list[int]]
    slowest_at_first_end: int | None = None  # tokens that the slowest had when the first was complete
    started_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


async def run_together(address, messages):
    progress = Progress([[] for _ in messages])
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.InferenceStub(channel)

        async def read(number, message):
            async for event in stub.Generate(message, timeout=HANG_S):
                progress.tokens[number] += event.delta.token_ids
            if progress.slowest_at_first_end is None:
                progress.slowest_at_first_end = min(len(tokens) for tokens in progress.tokens)

        async with asyncio.TaskGroup() as group:
            for number, message in enumerate(messages):
                group.create_task(read(number, message))
    progress.seconds = time.monotonic() - progress.started_at
    return progress


class ManyStreamsTest(unittest.TestCase):

    def run_streams(self, name, coordinator, worker, service, count, new):
        messages = [request([1 + i, 2, 3, 4, 5], new=new) for i in range(count)]
        alone = [service.run(messages[i]).tokens[0] for i in (0, count - 1)]
        # Where the client is kept waiting between two requests, the first has time to end. Not each time.
        for _ in range(3):
            service.wait_idle()
            progress = asyncio.run(run_together(coordinator.address, messages))
            for number, tokens in enumerate(progress.tokens):
                self.assertEqual(len(tokens), new, f"stream {number}")
            self.assertEqual([progress.tokens[0], progress.tokens[-1]], alone)
            if progress.slowest_at_first_end >= new / 2:
                break
        figure(f"{count} streams of {new} tokens, {name}", count * new / progress.seconds, "tokens/s")
        figure("when the first finished the slowest had", 100 * progress.slowest_at_first_end / new, "% of its tokens",
               ">= 50 %")
        self.assertGreaterEqual(progress.slowest_at_first_end, new / 2)
        for process in (coordinator, worker):
            figure(f"peak memory of {process.program}, {name}", process.memory_bytes() / 2**20, "MiB")
        service.wait_idle()

    def test_fake_engine(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        worker = stage.fake_worker(stage.model("ghost"), "--join", coordinator.address, "--max-num-seqs", 256,
                                   step_us=int(20000 / VOLUME))
        service = Service(stage, coordinator.address)
        service.wait_ready()
        self.run_streams("fake engine", coordinator, worker, service, 256, lasting(64))

    def test_paged_engine(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        worker = stage.worker(TINY, "--join", coordinator.address, "--max-num-seqs", 256)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        self.run_streams("quire-tiny", coordinator, worker, service, scaled(256), lasting(32))


if __name__ == "__main__":
    main()
