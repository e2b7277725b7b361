"""A bounded pool for the work of requests: so many at a time, so many waiting, and no more."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class QueueFull(Exception):
    """Too many requests are waiting."""


class Workers:
    """Threads for one kind of work. What a client gave up on still counts until it is done."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.executor = ThreadPoolExecutor(threads)
        self.room = threads + waiting
        self.busy = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of ``function(*arguments)``; raises QueueFull where there is no room for it to wait."""
        if self.busy >= self.room:
            raise QueueFull
        self.busy += 1
        future = self.executor.submit(function, *arguments)
        loop = asyncio.get_running_loop()

        def done(_: Future) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(self._leave)

        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        self.busy -= 1
