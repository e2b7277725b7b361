"""``dermeval embed``: every image of the given data sets through one encoder, on one process or many.

Two CPU ranks: ``ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermeval embed ...``
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather
from tqdm import tqdm

from dermeval.features.embeddings import write_embeddings
from dermeval.features.encoders import Encoder, open_encoder, with_origin
from dermeval.features.images import StoredImages, batches, normalised
from dermeval.features.options import EmbedOptions
from dermeval.features.pixels import PixelPCA, fit_rows
from dermssl import licences
from dermssl.commandline import Report
from dermssl.data.dataset import Dataset, open_datasets
from dermssl.devices import choose_precision, join_ranks
from dermssl.errors import InputError
from dermssl.files import require_new_folder

log = logging.getLogger("dermssl")


def embed(options: EmbedOptions) -> Report | None:
    """Write an embeddings folder; see `EmbedOptions`. Ranks above 0 return None.

    Raises:
        InputError: an unusable encoder, dataset folder, output folder or precision.
    """
    out = require_new_folder(Path(options.out), options.overwrite)
    datasets = open_datasets(options.data)
    encoder = open_encoder(options.encoder, options.image_size)
    state = join_ranks()
    precision = choose_precision(options.precision, state.device)
    _warn_enlarged(datasets, encoder)
    encoder.model.to(state.device).to(memory_format=torch.channels_last)
    if isinstance(encoder.model, PixelPCA):
        encoder = _fitted(encoder, datasets, options, state)
    features, seconds = _run(encoder, datasets, options, state, precision)
    _check_finite(features, datasets)
    if not state.is_main_process:
        return None
    rate = len(features) / seconds
    extra = {"precision": precision, "ranks": state.num_processes, "images_per_second": round(rate, 1)}
    info = write_embeddings(out, features, datasets, encoder.record(), extra)
    return _report(out, features, info, state.device.type)


def _warn_enlarged(datasets: Sequence[Dataset], encoder: Encoder) -> None:
    for dataset in datasets:
        if dataset.info["short_side"] < encoder.image_size:
            log.warning(
                "warning: %s is stored at %d px and enlarged to the encoder's %d px: prepare it with a larger "
                "--short-side, or give --image-size",
                dataset.folder,
                dataset.info["short_side"],
                encoder.image_size,
            )


def _run(
    encoder: Encoder, datasets: Sequence[Dataset], options: EmbedOptions, state: PartialState, precision: str
) -> tuple[np.ndarray, float]:
    """Features ``(N, D)`` of all images, complete on every rank, and the seconds it took."""
    total = sum(map(len, datasets))
    mine = np.arange(state.process_index, total, state.num_processes)
    images = StoredImages(datasets, mine, encoder.preprocessing)
    start = time.perf_counter()
    ours = _forward(encoder, images, options, state, precision)
    features = place(*_gather(*ours, total, state), total)
    return features, time.perf_counter() - start


@torch.inference_mode()
def _forward(
    encoder: Encoder, images: StoredImages, options: EmbedOptions, state: PartialState, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``(n,)`` and float32 features ``(n, D)`` of this rank's images."""
    all_rows = torch.empty(len(images), dtype=torch.int64)
    all_features = torch.empty(len(images), encoder.dim)
    done = 0
    loader = batches(images, options.batch, options.workers, state.num_processes)
    hidden = None if state.is_main_process else True
    with tqdm(total=len(images) * state.num_processes, desc="embed", unit="image", disable=hidden) as bar:
        for rows, pixels in loader:
            pixels = normalised(pixels, encoder.preprocessing, state.device)
            with torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bf16"):
                features = encoder.model(pixels)
            all_rows[done : done + len(rows)] = rows
            all_features[done : done + len(rows)] = features.float().cpu()
            done += len(rows)
            bar.update(len(rows) * state.num_processes)
    return all_rows, all_features


def _gather(
    rows: torch.Tensor, features: torch.Tensor, total: int, state: PartialState
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and features of all ranks. Ranks are padded to one length with row -1, which is cut off again."""
    if state.num_processes == 1:
        return rows.numpy(), features.numpy()
    missing = -(-total // state.num_processes) - len(rows)
    rows = torch.nn.functional.pad(rows, (0, missing), value=-1)
    features = torch.nn.functional.pad(features, (0, 0, 0, missing))
    rows, features = gather((rows.to(state.device), features.to(state.device)))
    kept = rows >= 0
    return rows[kept].cpu().numpy(), features[kept].cpu().numpy()


def place(rows: np.ndarray, features: np.ndarray, total: int) -> np.ndarray:
    """``features`` in dataset order; raises RuntimeError unless each of the ``total`` rows came exactly once."""
    counts = np.bincount(rows, minlength=total)
    if len(counts) != total or (counts != 1).any():
        raise RuntimeError(f"rows {np.flatnonzero(counts != 1)[:5]} were not embedded exactly once")
    placed = np.empty_like(features)
    placed[rows] = features
    return placed


def _fitted(encoder: Encoder, datasets: Sequence[Dataset], options: EmbedOptions, state: PartialState) -> Encoder:
    """The pixel baseline fitted by rank 0, the same on every rank, with its fit on record."""
    model = encoder.model
    assert isinstance(model, PixelPCA)
    rows = fit_rows(np.concatenate([dataset.column("split") for dataset in datasets]), model.seed)
    # Every rank can tell by itself whether the fit will fail, so that none waits for a rank that gave up.
    if state.is_main_process or len(rows) < model.num_features:
        images = StoredImages(datasets, rows, encoder.preprocessing)
        loader = batches(images, options.batch, options.workers)
        pixels = torch.cat([pixels.flatten(1) for _, pixels in loader] or [torch.empty(0, 1)])
        model.fit(pixels.numpy().astype(np.float32) / 255)
    for buffer in model.buffers():
        buffer.copy_(broadcast(buffer))
    return with_origin(encoder, fit={"splits": ["train", None], "images": len(rows), "seed": model.seed})


def _check_finite(features: np.ndarray, datasets: Sequence[Dataset]) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        ids = np.concatenate([dataset.column("image_id") for dataset in datasets])
        raise InputError(
            f"the encoder gives NaN or infinity for {len(bad)} images (first {ids[bad[0]]}): "
            f"try --precision fp32, or another checkpoint"
        )


def _report(out: Path, features: np.ndarray, info: dict[str, Any], device: str) -> Report:
    encoder = info["encoder"]
    text = [
        f"{len(features)} images -> {features.shape[1]} features each -> {out}",
        f"  encoder    {encoder['path']} ({encoder['name']}, fingerprint {encoder['fingerprint'][:12]})",
        f"  input      {encoder['preprocessing']['input_size'][-1]} px, {info['precision']} on {device}, "
        f"{info['ranks']} process{'es' if info['ranks'] > 1 else ''}",
        f"  speed      {info['images_per_second']:.1f} images/s",
        *licences.lines(info["licences"]),
    ]
    return Report("\n".join(text), info | {"out": str(out)})
