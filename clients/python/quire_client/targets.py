"""Which coordinator to ask, and when to ask again."""

from collections.abc import Sequence

import grpc

from quire_client.errors import QuireError

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0

CHANNEL_OPTIONS = (
    # gRPC's own pauses between connection attempts grow to minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
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


class Attempts:
    """Walks the targets for one call: the next one at once, and a growing pause after each full round.

    `limit` is how many attempts in a row may fail without progress.
    """

    def __init__(self, num_targets: int, first: int, limit: int) -> None:
        self._num_targets = num_targets
        self._limit = limit
        self._failed = 0
        self.target = first

    def progress(self) -> None:
        """Something came: the server is alive."""
        self._failed = 0

    def pause_after(self, error: QuireError) -> float | None:
        """Moves on to the next target and gives the seconds to wait before it is asked.

        None: another attempt makes no sense. Only UNAVAILABLE passes by itself.
        """
        self._failed += 1
        if error.code is not grpc.StatusCode.UNAVAILABLE or self._failed >= self._limit:
            return None
        self.target = (self.target + 1) % self._num_targets
        rounds, position = divmod(self._failed, self._num_targets)
        if position != 0:
            return 0.0
        pause = min(_FIRST_PAUSE_S * 2.0 ** (rounds - 1), _LONGEST_PAUSE_S)
        return max(pause, min(error.retry_delay or 0.0, _LONGEST_PAUSE_S))
