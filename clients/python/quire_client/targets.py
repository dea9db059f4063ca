"""Which coordinator to ask, and when to ask again."""

from collections.abc import Sequence

import grpc

from quire_client.errors import QuireError

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0

CHANNEL_OPTIONS = (
    # gRPC's own pauses between connection attempts grow to minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # the limit for making a connection
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that is gone without a word is noticed: a reader alone would wait for ever.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC sends pings for reasons of its own, and none for keepalive while one of them is under way. It waits a
    # minute for their answers.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # What the server sends at the most.
    ("grpc.max_receive_message_length", 4 << 20),
)


def parse_targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    """'HOST:PORT[,HOST:PORT...]' or a sequence of HOST:PORT. ValueError if there is none."""
    parts = targets.split(",") if isinstance(targets, str) else targets
    parsed = tuple(part.strip() for part in parts if part.strip())
    if not parsed:
        raise ValueError("no target: at least one HOST:PORT is needed")
    return parsed


class Targets:
    """The coordinators that a client may use. A call begins at the one that answered last."""

    def __init__(self, targets: str | Sequence[str], max_attempts: int) -> None:
        self.names = parse_targets(targets)
        self.preferred = 0
        self._max_attempts = max_attempts

    def attempts(self) -> "Attempts":
        """For one call."""
        return Attempts(self, self._max_attempts)


class Attempts:
    """Walks the targets for one call: the next one at once, and a growing pause after each full round.

    `limit` is how often each target may fail in a row without a new token between.
    """

    def __init__(self, targets: Targets, limit: int) -> None:
        self._targets = targets
        self._limit = limit
        self._failed = 0
        self._num_tokens = 0  # at the last failure
        self.target = targets.preferred

    def answered(self) -> None:
        """The target said something: later calls begin there."""
        self._targets.preferred = self.target

    def pause_after(self, error: QuireError, num_tokens: int = 0) -> float | None:
        """Moves on to the next target and gives the seconds to wait before it is asked.

        num_tokens: how many came since the call began. None: another attempt makes no sense. Only UNAVAILABLE passes
        by itself.
        """
        num_targets = len(self._targets.names)
        if num_tokens > self._num_tokens:
            self._failed = 0
        self._num_tokens = num_tokens
        self._failed += 1
        if error.code is not grpc.StatusCode.UNAVAILABLE or self._failed >= self._limit * num_targets:
            return None
        self.target = (self.target + 1) % num_targets
        rounds, position = divmod(self._failed, num_targets)
        if position != 0:
            return 0.0
        pause = min(_FIRST_PAUSE_S * 2.0 ** (rounds - 1), _LONGEST_PAUSE_S)
        return max(pause, min(error.retry_delay or 0.0, _LONGEST_PAUSE_S))
