"""Answers of the unary calls, as dataclasses."""

from dataclasses import dataclass

from quire.v1 import inference_pb2 as pb


def engine_name(engine: int) -> str:
    """'paged', 'baseline' or 'hf_reference'."""
    known = engine in pb.Engine.values()
    return pb.Engine.Name(engine).lower() if known else f"engine_{engine}"


@dataclass(frozen=True)
class Model:
    id: str
    context_length: int
    vocabulary_size: int
    dtypes: tuple[str, ...]
    engines: tuple[str, ...]
    numerics_ids: tuple[str, ...]
    has_tokenizer: bool
    has_chat_template: bool

    @staticmethod
    def from_proto(model: pb.Model) -> "Model":
        return Model(model.id, model.context_length, model.vocabulary_size, tuple(model.dtypes),
                     tuple(engine_name(e) for e in model.engines), tuple(model.numerics_ids), model.has_tokenizer,
                     model.has_chat_template)


@dataclass(frozen=True)
class WorkerLoad:
    """What one worker is doing. `state` is STARTING, READY, SUSPECT, DRAINING or DEAD."""

    name: str
    model: str
    engine: str
    state: str
    running: int
    waiting: int
    blocks_free: int
    blocks_cached: int
    blocks_total: int
    output_tokens_per_s: float
    address: str
    dtype: str
    kv_cache: str
    kv_reserved_bytes: int
    kv_used_bytes: int
    numerics_id: str
    why: str

    @staticmethod
    def from_proto(load: pb.WorkerLoad) -> "WorkerLoad":
        known = load.state in pb.WorkerLoad.State.values()
        state = pb.WorkerLoad.State.Name(load.state) if known else f"STATE_{load.state}"
        return WorkerLoad(load.name, load.model, engine_name(load.engine), state, load.running, load.waiting,
                          load.blocks_free, load.blocks_cached, load.blocks_total, load.output_tokens_per_s,
                          load.address, load.dtype, load.kv_cache, load.kv_reserved_bytes, load.kv_used_bytes,
                          load.numerics_id, load.why)


@dataclass(frozen=True)
class TokenizedText:
    """Token ids and, for each, its string in the vocabulary."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]

    @staticmethod
    def from_proto(answer: pb.TokenizeResponse) -> "TokenizedText":
        return TokenizedText(tuple(answer.token_ids), tuple(answer.tokens))


@dataclass(frozen=True)
class ServerInfo:
    version: str
    build: str
    uptime_s: float
    features: tuple[str, ...]

    @staticmethod
    def from_proto(info: pb.GetServerInfoResponse) -> "ServerInfo":
        return ServerInfo(info.version, info.build, info.uptime_s, tuple(info.features))
