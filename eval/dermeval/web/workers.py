"""A bounded pool for the work of requests: so many at a time, so many waiting, and no more."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread


class QueueFull(Exception):
    """Too many requests are waiting."""


class Workers:
    """Threads for one kind of work. What a client gave up on still counts until it is done."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.threads = anyio.CapacityLimiter(threads)
        self.most = threads + waiting
        self.busy = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of ``function(*arguments)``; raises QueueFull where as many as allowed are waiting."""
        if self.busy >= self.most:
            raise QueueFull
        self.busy += 1
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=self.threads)
        finally:
            self.busy -= 1
