"""Waiting until every worker is READY in GetLoad."""

import time
from collections.abc import Callable, Collection

from local_service.processes import ServerFailed, Stack
from quire_client import Client, WorkerLoad

_ASK_EVERY_S = 0.2


def wait_until_ready(stack: Stack, client: Client, names: Collection[str], timeout_s: float,
                     on_progress: Callable[[list[WorkerLoad]], None] = lambda workers: None) -> None:
    """Until the workers of these names take requests. ServerFailed: a server ended, or the time passed.

    `on_progress` hears of the workers that are READY, each time there are more.
    """
    deadline = time.monotonic() + timeout_s
    known = 0
    while True:
        workers = {worker.name: worker for worker in client.load() if worker.name in names}
        ready = [worker for worker in workers.values() if worker.state == "READY"]
        if len(ready) > known:
            known = len(ready)
            on_progress(ready)
        if known == len(names):
            return
        stack.check()
        if time.monotonic() > deadline:
            missing = [_describe(name, workers.get(name)) for name in names
                       if name not in workers or workers[name].state != "READY"]
            raise ServerFailed(f"not ready after {timeout_s:.0f} s: {'; '.join(missing)}")
        with stack.changed:  # a server that ends is a reason to look at once
            stack.changed.wait(_ASK_EVERY_S)


def _describe(name: str, worker: WorkerLoad | None) -> str:
    if worker is None:
        return f"{name} has not joined"
    return f"{name} is {worker.state}{f', {worker.why}' if worker.why else ''}"
