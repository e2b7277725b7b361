"""``dermeval embed``: every image of the given data sets through one encoder, on one process or many.

Two CPU ranks: ``ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermeval embed ...``
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list

from dermeval.features.embeddings import write_embeddings
from dermeval.features.encoders import Encoder, open_encoder, with_origin
from dermeval.features.forward import blocks, features_of_blocks
from dermeval.features.images import StoredImages, batches, chunks
from dermeval.features.options import EmbedOptions
from dermeval.features.pixels import PixelPCA, fit_rows
from dermeval.features.unfinished import Unfinished, folder_of
from dermssl import licences
from dermssl.commandline import Report
from dermssl.dataset.dataset import Dataset, open_datasets
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
    unfinished = folder_of(out)
    _refuse_repeated(options.views)
    datasets = open_datasets(options.data)
    encoder = open_encoder(options.encoder, options.image_size, options.features)
    state = join_ranks()
    precision = choose_precision(options.precision, state.device)
    _warn_enlarged(datasets, encoder)
    encoder.model.to(state.device).to(memory_format=torch.channels_last)
    if isinstance(encoder.model, PixelPCA):
        encoder = _fitted(encoder, datasets, options, state)
    written = Unfinished(unfinished, _plan(encoder, datasets, options, precision))
    embedded, seconds = _run(encoder, datasets, options, state, precision, written)
    if not state.is_main_process:
        return None
    rate = round(embedded / seconds, 1) if embedded else None
    extra = {"precision": precision, "ranks": state.num_processes, "images_per_second": rate}
    views = ((view, written.features(1 + index)) for index, view in enumerate(options.views))
    info = write_embeddings(out, written.features(0), datasets, encoder.record(), extra, views)
    written.remove()
    return _report(out, sum(map(len, datasets)), info, state.device.type)


def _refuse_repeated(views: Sequence[str]) -> None:
    if len(set(views)) < len(views):
        raise InputError(f"--views {' '.join(views)}: a view is given twice")


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


def _plan(encoder: Encoder, datasets: Sequence[Dataset], options: EmbedOptions, precision: str) -> dict[str, Any]:
    """All that the features of a row depend on; rows finished under another plan are not gone on with."""
    record = encoder.record()
    return {
        "encoder": record["fingerprint"],
        "preprocessing": json.loads(json.dumps(record["preprocessing"])),
        "features": options.features,
        "views": options.views,
        "data": [dataset.fingerprint for dataset in datasets],
        "precision": precision,
        "dtype": options.dtype,
    }


def _run(
    encoder: Encoder,
    datasets: Sequence[Dataset],
    options: EmbedOptions,
    state: PartialState,
    precision: str,
    written: Unfinished,
) -> tuple[int, float]:
    """Embed the rows that ``written`` lacks; returns their number and the seconds it took."""
    images = StoredImages(datasets, encoder.preprocessing, options.views)
    shared = [written.begin() if state.is_main_process else 0]
    (done,) = broadcast_object_list(shared)
    if done:
        log.info("%s: going on after %d of %d images", written.folder, done, len(images))
    todo = blocks(len(images), done, options.batch, state.num_processes)
    start = time.perf_counter()
    found = features_of_blocks(encoder, images, todo, options, state, precision)
    for block, features in zip(todo, found, strict=True):
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinity, which is refused below
            features = features.astype(options.dtype)
        _check_finite(features, block, datasets)
        if state.is_main_process:
            written.add(block.start, features)
    return len(images) - done, time.perf_counter() - start


def _fitted(encoder: Encoder, datasets: Sequence[Dataset], options: EmbedOptions, state: PartialState) -> Encoder:
    """The pixel baseline fitted by rank 0, the same on every rank, with its fit on record."""
    model = encoder.model
    assert isinstance(model, PixelPCA)
    rows = fit_rows(np.concatenate([dataset.column("split") for dataset in datasets]), model.seed)
    # Every rank can tell by itself whether the fit will fail, so that none waits for a rank that gave up.
    if state.is_main_process or len(rows) < model.num_features:
        images = StoredImages(datasets, encoder.preprocessing)
        loader = batches(images, chunks(rows, options.batch), options.workers)
        pixels = torch.cat([pixels.flatten(1) for _, pixels in loader] or [torch.empty(0, 1)])
        model.fit(pixels.numpy().astype(np.float32) / 255)
    for buffer in model.buffers():
        buffer.copy_(broadcast(buffer))
    return with_origin(encoder, fit={"splits": ["train", None], "images": len(rows), "seed": model.seed})


def _check_finite(features: np.ndarray, block: range, datasets: Sequence[Dataset]) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=(1, 2)))
    if len(bad):
        ids = np.concatenate([dataset.column("image_id") for dataset in datasets])
        raise InputError(
            f"the encoder gives NaN or infinity for {len(bad)} of {len(block)} images (first "
            f"{ids[block.start + bad[0]]}): try --precision fp32, --dtype float32, or another checkpoint"
        )


def _report(out: Path, images: int, info: dict[str, Any], device: str) -> Report:
    encoder = info["encoder"]
    seen = f", also {', '.join(info['views'])}" if info["views"] else ""
    speed = f"{info['images_per_second']:.1f} images/s" if info["images_per_second"] else "nothing was left to embed"
    text = [
        f"{images} images -> {encoder['dim']} features each ({encoder['features']}, {info['dtype']}{seen}) -> {out}",
        f"  encoder    {encoder['path']} ({encoder['name']}, fingerprint {encoder['fingerprint'][:12]})",
        f"  input      {encoder['preprocessing']['input_size'][-1]} px, {info['precision']} on {device}, "
        f"{info['ranks']} process{'es' if info['ranks'] > 1 else ''}",
        f"  speed      {speed}",
        *licences.lines(info["licences"]),
    ]
    return Report("\n".join(text), info | {"out": str(out)})
