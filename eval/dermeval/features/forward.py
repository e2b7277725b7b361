"""Images through an encoder, block by block, on one process or many; each row exactly once."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from tqdm import tqdm

from dermeval.features.encoders import Encoder
from dermeval.features.images import StoredImages, batches, chunks, normalised
from dermeval.features.options import EmbedOptions

BLOCK_IMAGES = 4096
"""Images after which finished rows are written: what a killed run can lose."""


def blocks(total: int, done: int, batch: int, ranks: int) -> list[range]:
    """The rows from ``done`` on in blocks of about `BLOCK_IMAGES` that give every rank whole batches."""
    together = batch * ranks
    size = max(1, BLOCK_IMAGES // together) * together
    return [range(start, min(start + size, total)) for start in range(done, total, size)]


def features_of_blocks(
    encoder: Encoder,
    images: StoredImages,
    todo: Sequence[range],
    options: EmbedOptions,
    state: PartialState,
    precision: str,
) -> Iterator[np.ndarray]:
    """Float32 features ``(b, V, D)`` of each block of rows, complete on every rank.

    One loader runs through all blocks, so that decoding does not wait for a block to end.
    """
    ranks, rank = state.num_processes, state.process_index
    mine = [chunks(np.arange(block.start + rank, block.stop, ranks), options.batch) for block in todo]
    loader = iter(batches(images, list(itertools.chain(*mine)), options.workers, ranks))
    hidden = None if state.is_main_process else True
    done = todo[0].start if todo else len(images)
    with tqdm(total=len(images), initial=done, desc="embed", unit="image", disable=hidden) as bar:
        for block, parts in zip(todo, mine, strict=True):
            rows, features = _forward(encoder, itertools.islice(loader, len(parts)), state.device, precision)
            features = features.reshape(len(rows), 1 + len(images.views), encoder.dim)
            yield place(*_gather(rows - block.start, features, len(block), state), len(block))
            bar.update(len(block))


@torch.inference_mode()
def _forward(
    encoder: Encoder, loader: Iterable, device: torch.device, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``(n,)`` and float32 features ``(n, V, D)`` of some batches."""
    all_rows, all_features = [torch.empty(0, dtype=torch.int64)], [torch.empty(0)]
    for rows, images in loader:
        # View by view, so that memory does not grow with the number of views.
        parts = []
        for view in images.unbind(1):
            pixels = normalised(view, encoder.preprocessing, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                parts.append(encoder(pixels).float().cpu())
        all_rows.append(rows)
        all_features.append(torch.stack(parts, dim=1).flatten())
    return torch.cat(all_rows), torch.cat(all_features)


def _gather(
    rows: torch.Tensor, features: torch.Tensor, total: int, state: PartialState
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and features of all ranks. Ranks are padded to one length with row -1, which is cut off again."""
    if state.num_processes == 1:
        return rows.numpy(), features.numpy()
    missing = -(-total // state.num_processes) - len(rows)
    rows = torch.nn.functional.pad(rows, (0, missing), value=-1)
    features = torch.nn.functional.pad(features, (0, 0, 0, 0, 0, missing))
    rows, features = gather((rows.to(state.device), features.to(state.device)))
    kept = rows >= 0
    return rows[kept].cpu().numpy(), features[kept].cpu().numpy()


def place(rows: np.ndarray, features: np.ndarray, total: int) -> np.ndarray:
    """``features`` in row order; raises RuntimeError unless each of the ``total`` rows came exactly once."""
    counts = np.bincount(rows, minlength=total)
    if len(counts) != total or (counts != 1).any():
        raise RuntimeError(f"rows {np.flatnonzero(counts != 1)[:5]} were not embedded exactly once")
    placed = np.empty_like(features)
    placed[rows] = features
    return placed
