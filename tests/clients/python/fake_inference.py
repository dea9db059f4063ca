"""A coordinator without workers: answers what a test tells it to, over real gRPC on a free loopback port."""

import threading
from concurrent import futures
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc as pb_grpc


@dataclass
class Failure:
    code: grpc.StatusCode
    message: str
    field: str | None = None
    retry_after_ms: int | None = None
    is_bare: bool = False  # without details, as gRPC itself says it


@dataclass
class Script:
    """What the next Generate does: emits up to `tokens` output tokens in all, then fails or finishes."""

    tokens: int
    failure: Failure | None = None
    aborts: bool = False  # a Finished with ABORTED goes before the failure
    skip: int = 0  # leaves a gap of so many tokens: a broken server
    hang: bool = False  # after the tokens, until the client leaves
    finishes: bool | None = None  # whether the choices get their Finished; None: unless it fails or hangs
    numerics_id: str = "n"


@dataclass
class FakeInference(pb_grpc.InferenceServicer):
    """Token i of choice c is 100 * c + i, its text the character 'a' + i."""

    scripts: list[Script] = field(default_factory=list)
    unary_failure: Failure | None = None
    # The request ids that Cancel finds, with their tenants.
    living: dict[str, str] = field(default_factory=lambda: {"alive": "", "owned": "acme"})

    def __post_init__(self) -> None:
        self.requests: list[pb.GenerateRequest] = []
        self.client_left = threading.Event()

    def Generate(self, request, context):
        self.requests.append(request)
        script = self.scripts.pop(0)
        if script.failure and script.tokens == 0:
            _abort(context, script.failure)
        finishes = script.finishes
        if finishes is None:
            finishes = script.failure is None and not script.hang
        parameters = pb.ResolvedParameters(n=max(1, request.sampling.n), temperature=request.sampling.temperature)
        yield pb.GenerateEvent(accepted=pb.Accepted(request_id=request.request_id, parameters=parameters,
                                                    prompt_token_count=1, worker="fake", numerics_id=script.numerics_id))
        for choice in range(parameters.n):
            resumed = request.resume.choices[choice].emitted_token_ids if request.resume.choices else []
            for i in range(len(resumed) + script.skip, script.tokens):
                yield pb.GenerateEvent(delta=pb.Delta(choice=choice, first_index=i, token_ids=[100 * choice + i],
                                                      text=chr(ord("a") + i)))
            if finishes:
                usage = pb.Usage(prompt_tokens=1, output_tokens=script.tokens, kv=pb.KvUsage(reserved_bytes=64))
                yield pb.GenerateEvent(finished=pb.Finished(choice=choice, reason=pb.Finished.LENGTH, text=".",
                                                            usage=usage, seed=7))
        if script.hang:
            context.add_callback(self.client_left.set)
            yield pb.GenerateEvent(notice=pb.Notice(kind=pb.Notice.PREEMPTED, why="a test"))
            self.client_left.wait(10)
        if script.failure:
            if script.aborts:
                yield pb.GenerateEvent(finished=pb.Finished(reason=pb.Finished.ABORTED))
            _abort(context, script.failure)

    def Tokenize(self, request, context):
        if self.unary_failure:
            _abort(context, self.unary_failure)
        ids = [ord(c) for c in request.text]
        if not request.HasField("add_special_tokens") or request.add_special_tokens:
            ids.insert(0, 1)
        return pb.TokenizeResponse(token_ids=ids, tokens=["<s>"] * (len(ids) - len(request.text)) + list(request.text))

    def Detokenize(self, request, context):
        return pb.DetokenizeResponse(text="".join(map(chr, request.token_ids)))

    def ListModels(self, request, context):
        return pb.ListModelsResponse(models=[pb.Model(id="tiny", context_length=2048, dtypes=["fp32"],
                                                      engines=[pb.PAGED, pb.HF_REFERENCE])])

    def GetModel(self, request, context):
        _abort(context, Failure(grpc.StatusCode.NOT_FOUND, f"no model {request.model}; there are: tiny"))

    def GetLoad(self, request, context):
        return pb.GetLoadResponse(workers=[pb.WorkerLoad(name="w", engine=pb.BASELINE, state=pb.WorkerLoad.READY,
                                                         blocks_total=9)])

    def GetServerInfo(self, request, context):
        return pb.GetServerInfoResponse(version="1.2.3", uptime_s=4.0, features=["a"])

    def Cancel(self, request, context):
        return pb.CancelResponse(found=self.living.get(request.request_id) in ("", request.tenant))


class Server:
    """Serves a FakeInference until it is stopped."""

    def __init__(self, service: FakeInference) -> None:
        self.service = service
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_InferenceServicer_to_server(service, self._server)
        self.prepare(self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def prepare(self, server: grpc.Server) -> None:
        """For a subclass: adds what is to be served besides."""

    def stop(self) -> None:
        self._server.stop(None).wait()


def _abort(context, failure: Failure) -> None:
    details = []
    if failure.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=failure.field, description=failure.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(failure.retry_after_ms)
        details.append(retry)
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message, details=packed)
    if not failure.is_bare:
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(failure.code, failure.message)
