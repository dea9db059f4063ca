"""Turns a prompt and keyword options into a GenerateRequest."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from quire.v1 import inference_pb2 as pb


class ChatMessage(TypedDict, total=False):
    role: str
    content: str
    name: str
    tool_calls: str  # a JSON array


# Text, token ids, or chat messages.
Prompt = str | Sequence[int] | Sequence[ChatMessage]


class GenerateOptions(TypedDict, total=False):
    """Fields of GenerateRequest (proto/quire/v1/inference.proto tells their ranges), flat. All may be left out."""

    request_id: str
    model: str
    engine: str  # "paged", "baseline" or "hf_reference", or as the command line has it, "hf-reference"
    worker: str
    add_special_tokens: bool
    tools: str  # chat: a JSON array
    template_kwargs: str  # chat: a JSON object
    add_generation_prompt: bool  # chat
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    n: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_in_output: bool
    max_new_tokens: int
    min_new_tokens: int
    logprobs: int
    prompt_logprobs: int
    priority: int
    queue_timeout_ms: int
    timeout_ms: int
    cache_salt: str
    tenant: str
    resume: Sequence[Sequence[int]]  # token ids that a lost stream brought already, one list a choice


_PLAIN = ("model", "worker", "add_special_tokens", "max_new_tokens", "min_new_tokens", "logprobs", "prompt_logprobs",
          "priority", "queue_timeout_ms", "timeout_ms", "cache_salt", "tenant")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed", "n")
_PENALTIES = {"repetition_penalty": "repetition", "presence_penalty": "presence", "frequency_penalty": "frequency"}
_CHAT = ("tools", "template_kwargs", "add_generation_prompt")


def build_request(prompt: Prompt, **options: Unpack[GenerateOptions]) -> pb.GenerateRequest:
    """Sets request_id if the options have none: what makes a stream resumable exists before the first send.

    TypeError or ValueError: an option, or a value's type, that GenerateRequest does not have. Ranges are the server's
    to check.
    """
    unknown = set(options) - set(GenerateOptions.__annotations__)
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    request = pb.GenerateRequest(request_id=given.get("request_id") or str(uuid.uuid4()))
    _set_prompt(request, prompt, given)
    if "engine" in given:
        request.engine = pb.Engine.Value(given["engine"].upper().replace("-", "_"))
    for name in _PLAIN:
        if name in given:
            setattr(request, name, given[name])
    for name in _SAMPLING:
        if name in given:
            setattr(request.sampling, name, given[name])
    for name, proto_name in _PENALTIES.items():
        if name in given:
            setattr(request.penalties, proto_name, given[name])
    request.logit_bias.update(given.get("logit_bias", {}))
    request.stop.strings.extend(given.get("stop", ()))
    request.stop.token_ids.extend(given.get("stop_token_ids", ()))
    request.stop.ignore_eos = given.get("ignore_eos", False)
    request.stop.include_stop_in_output = given.get("include_stop_in_output", False)
    for token_ids in given.get("resume", ()):
        request.resume.choices.add(emitted_token_ids=token_ids)
    return request


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt, given: Mapping[str, Any]) -> None:
    is_chat = False
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.token_ids.SetInParent()
        for part in prompt:
            if isinstance(part, Mapping):
                is_chat = True
                request.chat.messages.add(**part)
            else:
                request.token_ids.ids.append(part)
    for name in _CHAT:
        if name not in given:
            continue
        if not is_chat:
            raise TypeError(f"{name} belongs to a chat prompt")
        setattr(request.chat, name, given[name])
