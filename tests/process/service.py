"""Calls a coordinator through the generated stubs alone, and checks what every stream promises."""

import pathlib
import threading
import time
from collections import defaultdict

import grpc
from google.protobuf.message import Message
from grpc import StatusCode
from harness import HANG_S, Stage, wait_until
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc as pb_grpc
from quire_client.errors import QuireError, from_rpc_error


ENDLESS = 60000  # tokens: two minutes at 2 ms a step


def request(prompt=(5, 6, 7), new: int = 16, **fields) -> pb.GenerateRequest:
    """A greedy request of exactly `new` tokens, unless `fields` say otherwise."""
    if isinstance(prompt, str):
        fields["text"] = prompt
    elif prompt is not None:
        fields["token_ids"] = pb.TokenIds(ids=prompt)
    fields.setdefault("sampling", pb.Sampling(temperature=0))
    fields.setdefault("stop", pb.Stop(ignore_eos=True))
    return pb.GenerateRequest(max_new_tokens=new, **fields)


class Stream:
    """One Generate call, read by a thread of its own until it ends.

    Its fields say what has come so far. Indices are checked to follow each other from the resumed ones on.
    """

    def __init__(self, call: grpc.Call, resumed: dict[int, int]) -> None:
        self.accepted: pb.Accepted | None = None
        self.deltas: list[pb.Delta] = []
        self.notices: list[pb.Notice] = []
        self.finished: dict[int, pb.Finished] = {}
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.texts: dict[int, str] = defaultdict(str)
        self.error: QuireError | None = None
        self.token_times: list[float] = []  # time.monotonic(), a message each
        self.ended_at: float | None = None  # likewise
        self._call = call
        self._resumed = resumed
        self._violation: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        self._call.cancel()

    def wait_for_tokens(self, count: int = 1) -> "Stream":
        """Waits until choice 0 has that many tokens."""
        self._wait(lambda: len(self.tokens[0]) >= count, f"{count} tokens")
        return self

    def gaps_over(self, seconds: float) -> list[float]:
        """Pauses between messages with tokens that were longer."""
        return [later - earlier for earlier, later in zip(self.token_times, self.token_times[1:])
                if later - earlier > seconds]

    def wait_accepted(self) -> "Stream":
        self._wait(lambda: self.accepted is not None, "Accepted")
        return self

    def end(self) -> "Stream":
        """Waits for the end of the stream, whatever its status."""
        self._wait(lambda: self.ended_at is not None, "the end of the stream")
        return self

    def ok(self) -> "Stream":
        """Waits for the end, which must be good."""
        if self.end().error is not None:
            raise AssertionError(f"the stream failed: {self.error}")
        return self

    def _wait(self, condition, what: str) -> None:
        with self._changed:
            in_time = self._changed.wait_for(lambda: condition() or self.ended_at is not None, HANG_S)
            if self._violation:
                raise AssertionError(self._violation)
            if not (in_time and condition()):
                raise AssertionError(f"no {what}; tokens {len(self.tokens[0])}, error {self.error}")

    def _read(self) -> None:
        error = None
        try:
            for event in self._call:
                with self._changed:
                    self._take(event)
                    self._changed.notify_all()
        except grpc.RpcError as failure:
            error = from_rpc_error(failure)
        with self._changed:
            self.error, self.ended_at = error, time.monotonic()
            self._changed.notify_all()

    def _take(self, event: pb.GenerateEvent) -> None:
        kind = event.WhichOneof("event")
        if (kind == "accepted") != (self.accepted is None):
            self._violation = f"{kind} came, Accepted before it: {self.accepted is not None}"
        if kind == "accepted":
            self.accepted = event.accepted
        elif kind == "notice":
            self.notices.append(event.notice)
        elif kind == "finished":
            self.texts[event.finished.choice] += event.finished.text
            self.finished[event.finished.choice] = event.finished
        elif kind == "delta":
            self._take_delta(event.delta)

    def _take_delta(self, delta: pb.Delta) -> None:
        expected = self._resumed.get(delta.choice, 0) + len(self.tokens[delta.choice])
        if delta.first_index != expected or delta.choice in self.finished:
            self._violation = f"choice {delta.choice}: index {delta.first_index} came, {expected} was next"
        self.deltas.append(delta)
        self.tokens[delta.choice] += delta.token_ids
        self.token_times.append(time.monotonic())
        self.texts[delta.choice] += delta.text


class Service:
    """A coordinator, seen from a client."""

    def __init__(self, stage: Stage, address: str, credentials: grpc.ChannelCredentials | None = None,
                 **channel_options: object) -> None:
        options = [(name.replace("__", "."), value) for name, value in channel_options.items()]
        # A channel of its own, so that two services of a test share no connection.
        options.append(("grpc.use_local_subchannel_pool", 1))
        self.channel = stage.enter_context(
            grpc.insecure_channel(address, options) if credentials is None else
            grpc.secure_channel(address, credentials, options))
        self.stub = pb_grpc.InferenceStub(self.channel)

    def start(self, message: pb.GenerateRequest, timeout: float = HANG_S) -> Stream:
        resumed = {i: len(choice.emitted_token_ids) for i, choice in enumerate(message.resume.choices)}
        return Stream(self.stub.Generate(message, timeout=timeout), resumed)

    def run(self, message: pb.GenerateRequest) -> Stream:
        """A whole stream that must end well."""
        return self.start(message).ok()

    def fail(self, message: pb.GenerateRequest, timeout: float = HANG_S) -> QuireError:
        """The error of a stream that must end with one."""
        stream = self.start(message, timeout).end()
        if stream.error is None:
            raise AssertionError(f"the stream ended well: {message}")
        return stream.error

    def call(self, method: str, message: Message) -> Message:
        """A unary call. Raises QuireError."""
        try:
            return getattr(self.stub, method)(message, timeout=HANG_S)
        except grpc.RpcError as failure:
            raise from_rpc_error(failure) from None

    def load(self) -> list[pb.WorkerLoad]:
        return list(self.call("GetLoad", pb.GetLoadRequest()).workers)

    def wait_ready(self, count: int = 1) -> list[pb.WorkerLoad]:
        """Waits until that many workers are READY."""

        def ready():
            try:
                workers = self.load()
            except QuireError as error:
                if error.code != StatusCode.UNAVAILABLE:  # a coordinator that is not there yet
                    raise
                return None
            return workers if sum(w.state == pb.WorkerLoad.READY for w in workers) >= count else None

        return wait_until(ready, f"{count} workers READY")

    def wait_idle(self, pause_s: float = 0.005) -> None:
        """Waits until no worker runs anything and every block is free or cached."""
        wait_until(lambda: all(is_idle(worker) for worker in self.load()), "every worker idle, all blocks back",
                   pause_s=pause_s)


def undisturbed_service(stage: Stage, model: pathlib.Path, *worker_flags: object) -> Service:
    """A coordinator of its own with a fake worker that takes no time for a step."""
    coordinator = stage.coordinator()
    stage.fake_worker(model, "--join", coordinator.address, "--num-gpu-blocks-override", 8192, *worker_flags)
    service = Service(stage, coordinator.address)
    service.wait_ready()
    return service


class Crowd:
    """Greedy streams that run together: `endless` of them until the crowd is checked, `finite` of `new` tokens.

    What a test does, the endless ones are there to see, however long the test itself is kept waiting. The others have an
    end that may come too early or never. `undisturbed` is a service that gives the same tokens and that nothing is done
    to.
    """

    def __init__(self, service: Service, undisturbed: Service, endless: int, finite: int = 0, new: int = 0) -> None:
        self._undisturbed, self._new = undisturbed, new
        self.endless = [service.start(request([i + 1, 2], new=ENDLESS), 10 * HANG_S) for i in range(endless)]
        self.finite = [service.start(request([endless + i + 1, 2], new=new)) for i in range(finite)]

    @property
    def streams(self) -> list[Stream]:
        return self.endless + self.finite

    def wait_for_tokens(self, count: int) -> "Crowd":
        for stream in self.streams:
            stream.wait_for_tokens(min(count, self._new) if stream in self.finite else count)
        return self

    def wait_for_more(self, count: int) -> None:
        """Until each of the endless has so many more tokens than now."""
        for stream, had in [(stream, len(stream.tokens[0])) for stream in self.endless]:
            stream.wait_for_tokens(had + count)

    def check(self) -> None:
        """Ends them all. Nothing was lost, repeated or changed: each has the tokens that it has undisturbed."""
        for stream in self.finite:
            counts = (len(stream.ok().tokens[0]), stream.finished[0].usage.output_tokens)
            if counts != (self._new, self._new):
                raise AssertionError(f"{counts} tokens came and are said to have come, of {self._new}")
        for stream in self.endless:
            stream.cancel()
            if stream.end().error is None or stream.error.code != StatusCode.CANCELLED:
                raise AssertionError(f"the stream failed: {stream.error}")
        undisturbed = [self._undisturbed.start(request([i + 1, 2], new=len(stream.tokens[0])))
                       for i, stream in enumerate(self.streams)]
        for i, (stream, other) in enumerate(zip(self.streams, undisturbed)):
            if stream.tokens[0] != other.ok().tokens[0]:
                raise AssertionError(f"stream {i} has other tokens than undisturbed")


def is_idle(worker: pb.WorkerLoad) -> bool:
    return (worker.running == 0 and worker.waiting == 0 and worker.blocks_total > 0 and
            worker.blocks_free + worker.blocks_cached == worker.blocks_total)
