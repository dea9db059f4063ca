"""The unary calls: what each sends, and what its caller gets of the answer. Shared by both clients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from quire.v1 import inference_pb2 as pb
from quire_client.errors import QuireError
from quire_client.info import Model, ServerInfo, TokenizedText, WorkerLoad

Result = TypeVar("Result")


@dataclass(frozen=True)
class UnaryCall(Generic[Result]):
    """`method` is one of pb_grpc.InferenceStub."""

    method: str
    request: Message
    result_of: Callable[[Any], Result]


def cancel(request_id: str, tenant: str) -> UnaryCall[bool]:
    return UnaryCall("Cancel", pb.CancelRequest(request_id=request_id, tenant=tenant), lambda answer: answer.found)


def was_found(outcomes: Sequence[bool | QuireError]) -> bool:
    """Whether any target had the request that all were asked to cancel. QuireError if none answered."""
    answers = [outcome for outcome in outcomes if not isinstance(outcome, QuireError)]
    if not answers:
        raise outcomes[-1]
    return any(answers)


def tokenize(text: str, model: str, add_special_tokens: bool | None) -> UnaryCall[TokenizedText]:
    request = pb.TokenizeRequest(model=model, text=text, add_special_tokens=add_special_tokens)
    return UnaryCall("Tokenize", request, TokenizedText.from_proto)


def detokenize(token_ids: Sequence[int], model: str, skip_special_tokens: bool | None) -> UnaryCall[str]:
    request = pb.DetokenizeRequest(model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens)
    return UnaryCall("Detokenize", request, lambda answer: answer.text)


def models() -> UnaryCall[list[Model]]:
    return UnaryCall("ListModels", pb.ListModelsRequest(),
                     lambda answer: [Model.from_proto(model) for model in answer.models])


def model(name: str) -> UnaryCall[Model]:
    return UnaryCall("GetModel", pb.GetModelRequest(model=name), Model.from_proto)


def load() -> UnaryCall[list[WorkerLoad]]:
    return UnaryCall("GetLoad", pb.GetLoadRequest(),
                     lambda answer: [WorkerLoad.from_proto(worker) for worker in answer.workers])


def server_info() -> UnaryCall[ServerInfo]:
    return UnaryCall("GetServerInfo", pb.GetServerInfoRequest(), ServerInfo.from_proto)
