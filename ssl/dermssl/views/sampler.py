"""The images of each batch: a pure function of (seed, step), so ranks, workers and restarts change nothing.

The random numbers are counter-based (Philox), so there is no state of a generator to save.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dermssl.errors import InputError

ORDER_STREAM, MIX_STREAM = 1, 2


class Item(NamedTuple):
    """One image of one batch: ``row`` of the pooled training rows, at ``position`` of ``epoch``."""

    epoch: int
    position: int
    row: int


def philox(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """Random numbers that depend on (seed, stream, counter) only, not on who draws them or when."""
    words = [0, *counter] + [0] * (3 - len(counter))
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=words))


@dataclass(frozen=True)
class Sampler:
    """Batches of pooled data sets: ``batch`` images per step, over all ranks and accumulation steps.

    ``sizes`` are the numbers of training rows of the sets; pooled row numbers count through the sets in order.
    ``shares`` are the shares of the sets in an epoch and add up to 1; None means proportional to the sizes.
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...] | None
    batch: int
    seed: int

    @property
    def total(self) -> int:
        """Number of training rows of all sets. An epoch draws as many images."""
        return sum(self.sizes)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches per epoch. Images that do not fill a batch are left out, other ones in every epoch."""
        return self.total // self.batch

    @property
    def quotas(self) -> tuple[int, ...]:
        """Number of images that an epoch draws from each set."""
        if self.shares is None:
            return self.sizes
        exact = np.array(self.shares) * self.total
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact)[: self.total - counts.sum()]] += 1
        return tuple(int(count) for count in counts)

    def items(self, step: int) -> list[Item]:
        """The global batch of ``step``, counted from the start of the run."""
        epoch, within = divmod(step, self.steps_per_epoch)
        positions = range(within * self.batch, (within + 1) * self.batch)
        rows = epoch_rows(self, epoch)
        return [Item(epoch, position, int(rows[position])) for position in positions]

    def times_seen(self, steps: int) -> np.ndarray:
        """How often each pooled row was in a batch during the first ``steps``, ``(total,)`` int64."""
        counts = np.zeros(self.total, dtype=np.int64)
        epochs, rest = divmod(steps, self.steps_per_epoch)
        for epoch in range(epochs + (rest > 0)):
            used = (self.steps_per_epoch if epoch < epochs else rest) * self.batch
            counts += np.bincount(epoch_rows(self, epoch)[:used], minlength=self.total)
        return counts


@lru_cache(maxsize=2)
def epoch_rows(sampler: Sampler, epoch: int) -> np.ndarray:
    """The pooled rows of ``epoch`` in order, ``(total,)`` int64."""
    starts = np.cumsum([0, *sampler.sizes])
    parts = [
        starts[index] + _cycle(size, quota, epoch, sampler.seed, index)
        for index, (size, quota) in enumerate(zip(sampler.sizes, sampler.quotas, strict=True))
    ]
    rows = np.concatenate(parts)
    return rows[philox(sampler.seed, ORDER_STREAM, epoch).permutation(len(rows))]


def _cycle(size: int, quota: int, epoch: int, seed: int, index: int) -> np.ndarray:
    """The ``quota`` rows that an epoch draws from one set.

    The set is shuffled and passed again and again. Epochs go on where the last ended, so all rows come equally often.
    """
    first, last = epoch * quota, (epoch + 1) * quota
    if not quota:
        return np.empty(0, dtype=np.int64)
    passes = range(first // size, math.ceil(last / size))
    order = np.concatenate([philox(seed, MIX_STREAM, index, number).permutation(size) for number in passes])
    return order[first % size :][:quota]


def parse_weights(weights: Sequence[str], names: Sequence[str]) -> tuple[float, ...] | None:
    """``data.weights`` (``size``, ``equal``, or a number per set) as `Sampler.shares`. Raises InputError for others."""
    if list(weights) == ["size"]:
        return None
    try:
        numbers = [1.0] * len(names) if list(weights) == ["equal"] else list(map(float, weights))
    except ValueError:
        raise InputError(f"data.weights is {' '.join(weights)}: give `size`, `equal`, or a number per set") from None
    usable = all(math.isfinite(number) and number >= 0 for number in numbers) and sum(numbers) > 0
    if len(numbers) != len(names) or not usable:
        sets = f"{len(names)} sets ({', '.join(names)})"
        raise InputError(f"data.weights is {' '.join(weights)} for {sets}: one number each, >= 0, and not all 0")
    return tuple(number / sum(numbers) for number in numbers)


@dataclass(frozen=True)
class RankBatches:
    """The micro-batches of one rank from step ``start`` to ``stop``, as a batch sampler for a DataLoader.

    A global batch is cut into accumulation x ranks equal slices. Micro-batch m of rank r is slice m x ranks + r.
    """

    sampler: Sampler
    start: int
    stop: int
    rank: int = 0
    ranks: int = 1
    accumulation: int = 1

    @property
    def images(self) -> int:
        """Number of images in a micro-batch of one rank."""
        return self.sampler.batch // (self.ranks * self.accumulation)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[Item]]:
        for step in range(self.start, self.stop):
            items = self.sampler.items(step)
            for micro in range(self.accumulation):
                first = (micro * self.ranks + self.rank) * self.images
                yield items[first : first + self.images]
