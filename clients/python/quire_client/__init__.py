"""Client library of Quire. README.md shows how it is used."""

from quire_client.client import AsyncClient, Client
from quire_client.errors import QuireError
from quire_client.events import (
    Accepted,
    Alternative,
    Delta,
    Event,
    Finished,
    FinishReason,
    KvUsage,
    Notice,
    NoticeKind,
    Timings,
    TokenLogprobs,
    Usage,
)
from quire_client.info import Model, ServerInfo, TokenizedText, WorkerLoad
from quire_client.request import ChatMessage, GenerateOptions, Prompt

__all__ = [
    "Accepted",
    "Alternative",
    "AsyncClient",
    "ChatMessage",
    "Client",
    "Delta",
    "Event",
    "FinishReason",
    "Finished",
    "GenerateOptions",
    "KvUsage",
    "Model",
    "Notice",
    "NoticeKind",
    "Prompt",
    "QuireError",
    "ServerInfo",
    "Timings",
    "TokenLogprobs",
    "TokenizedText",
    "Usage",
    "WorkerLoad",
]
