"""Work of requests in threads, with a bounded number of requests that run and that wait."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread


class QueueFull(Exception):
    """Too many requests are waiting."""


class Workers:
    """Threads for one kind of work. Work that a client gave up counts until it is done."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.threads = anyio.CapacityLimiter(threads)
        self.most = threads + waiting
        self.busy = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of ``function(*arguments)``; raises QueueFull if too many requests are waiting."""
        if self.busy >= self.most:
            raise QueueFull
        self.busy += 1
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=self.threads)
        finally:
            self.busy -= 1


class Batches:
    """Work that is faster in batches: ``function`` gets all waiting values together, at most ``most`` at a time."""

    def __init__(self, function: Callable[[list[Any]], Iterable[Any]], most: int) -> None:
        self.function, self.most = function, most
        self.waiting: list[tuple[Any, asyncio.Future]] = []
        self.task: asyncio.Task | None = None

    async def run(self, value: Any) -> Any:
        """The result of ``function`` for ``value``."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((value, answer))
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._work())  # a client that leaves must not cancel the others' batch
        return await answer

    async def _work(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
            try:
                results = list(await anyio.to_thread.run_sync(self.function, [value for value, _ in batch]))
            except Exception as error:
                results = [error] * len(batch)
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    (answer.set_exception if isinstance(result, Exception) else answer.set_result)(result)
