"""``dermeval embed``: embeds all images of data sets with one encoder, in one process or on several ranks.

On two CPU ranks: ``ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermeval embed ...``
"""

import itertools
import logging
import time
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from PIL import Image
from tqdm import tqdm

from dermeval.features.embeddings import WRITTEN, write_embeddings
from dermeval.features.encoders import Encoder, open_encoder, with_origin
from dermeval.features.options import EmbedOptions, View
from dermeval.features.pixels import PixelPCA, fit_rows
from dermeval.features.unfinished import Unfinished, unfinished_folder
from dermssl import licences
from dermssl.atomic import locked
from dermssl.backbone.embedding import Change, Pictures, batches_of_pictures, embed_batches, in_batches
from dermssl.commandline import Report
from dermssl.data_workers import read_batches
from dermssl.dataset.dataset import Dataset, open_datasets
from dermssl.devices import choose_precision, join_ranks
from dermssl.errors import InputError, counted
from dermssl.parallel import available_cores
from dermssl.paths import require_new_folder

BLOCK_IMAGES = 4096
"""The number of images after which features are written. A killed run loses at most these."""
MAX_WORKERS = 8
ZOOM = 0.7
"""The share of each side that the view ``zoom`` keeps."""
log = logging.getLogger("dermssl")


def zoom(image: Image.Image) -> Image.Image:
    """The central part of an image, with `ZOOM` of each side."""
    width, height = (max(1, round(side * ZOOM)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


VIEWS: dict[View, Change] = {
    "flip": methodcaller("transpose", Image.Transpose.FLIP_LEFT_RIGHT),
    "turn90": methodcaller("transpose", Image.Transpose.ROTATE_90),
    "turn180": methodcaller("transpose", Image.Transpose.ROTATE_180),
    "turn270": methodcaller("transpose", Image.Transpose.ROTATE_270),
    "zoom": zoom,
}
"""Further views of an image, each prepared like the image itself. Turns are counterclockwise, in degrees."""


def embed(options: EmbedOptions) -> Report | None:
    """Write an embeddings folder, see `EmbedOptions`. Ranks above 0 return None. Raises InputError for bad input."""
    out = Path(options.out)
    require_new_folder(out, options.overwrite, WRITTEN, [*options.data, options.encoder], key="precision")
    unfinished = unfinished_folder(out)
    if len(set(options.views)) < len(options.views):
        raise InputError(f"--views {' '.join(options.views)}: a view is given twice")
    datasets = open_datasets(options.data)
    if not any(map(len, datasets)):
        raise InputError(f"{', '.join(options.data)}: no images left, all were removed: prepare the data set again")
    encoder = open_encoder(options.encoder, options.image_size, options.features)
    state = join_ranks()
    precision = choose_precision(options.precision, state.device)
    for dataset in datasets:
        if (side := dataset.info["short_side"]) < encoder.image_size:
            log.warning(
                f"warning: {dataset.folder} is stored at {side} px and enlarged to the encoder's {encoder.image_size} "
                "px: prepare it again with a larger --short-side, or give --image-size"
            )
    encoder.model.to(state.device).to(memory_format=torch.channels_last)
    if isinstance(encoder.model, PixelPCA):
        encoder = _fitted(encoder, datasets, options, state)
    record = encoder.record()
    # Everything that features depend on. Finished rows of another plan are embedded again.
    plan = {
        "encoder": record["fingerprint"],
        "preprocessing": record["preprocessing"],
        "features": options.features,
        "views": options.views,
        "data": [dataset.fingerprint for dataset in datasets],
        "precision": precision,
        "dtype": options.dtype,
    }
    written = Unfinished(unfinished, plan)
    with locked(out):  # two calls from Python would mix the rows that they finish
        embedded, seconds = _run(encoder, datasets, options, state, precision, written)
        if not state.is_main_process:
            return None
        rate = round(embedded / seconds, 1) if embedded else None
        extra = {"precision": precision, "ranks": state.num_processes, "images_per_second": rate}
        views = ((view, written.features(1 + index)) for index, view in enumerate(options.views))
        info = write_embeddings(out, written.features(0), datasets, record, extra, views)
        written.remove()
    made, seen = info["encoder"], f", also {', '.join(info['views'])}" if info["views"] else ""
    kind, ranks = f"{made['features']}, {info['dtype']}{seen}", counted(state.num_processes, "process", "processes")
    text = [
        f"{counted(sum(map(len, datasets)), 'image')} -> {made['dim']} features each ({kind}) -> {out}",
        f"  encoder    {made['path']} ({made['name']}, fingerprint {made['fingerprint'][:12]})",
        f"  input      {encoder.image_size} px, {precision} on {state.device.type}, {ranks}",
        f"  speed      {rate:.1f} images/s" if rate else "  speed      nothing was left to embed",
        *licences.notice_lines(info["licences"]),
    ]
    return Report("\n".join(text), info | {"out": str(out)})


def _run(
    encoder: Encoder,
    datasets: Sequence[Dataset],
    options: EmbedOptions,
    state: PartialState,
    precision: str,
    written: Unfinished,
) -> tuple[int, float]:
    """Embed the rows that ``written`` lacks. Returns their number and the seconds that it took.

    Every rank decodes its own rows. One loader serves all blocks, so that decoding does not stop at the end of a block.
    """
    pictures = Pictures([d.images for d in datasets], encoder.preprocessing, [VIEWS[view] for view in options.views])
    (done,) = broadcast_object_list([written.begin() if state.is_main_process else 0])
    if done:
        log.info("%s: continuing after %d of %d images", written.folder, done, len(pictures))
    ranks, rank, total = state.num_processes, state.process_index, len(pictures)
    todo = blocks(total, done, options.batch, ranks)
    mine = [in_batches(np.arange(block.start + rank, block.stop, ranks), options.batch) for block in todo]
    workers = _workers(options, ranks)
    found = embed_batches(encoder, pictures, list(itertools.chain(*mine)), state.device, precision, workers)
    start, hidden = time.perf_counter(), None if state.is_main_process else True
    with tqdm(total=total, initial=done, desc="embed", unit="image", disable=hidden) as bar:
        for block, batches in zip(todo, mine, strict=True):
            own = []
            for part in itertools.islice(found, len(batches)):
                own.append(part)
                bar.update(min(ranks * len(part[0]), block.stop - bar.n))
            parts = gather_object(own)
            rows, features = (np.concatenate(column) for column in zip(*parts, strict=True))
            features = in_row_order(rows, features, block)
            with np.errstate(over="ignore"):  # numbers too large for float16 become infinity, which is refused below
                features = features.astype(options.dtype)
            bad = np.flatnonzero(~np.isfinite(features).all(axis=(1, 2)))
            if len(bad):
                ids = np.concatenate([dataset.column("image_id") for dataset in datasets])
                raise InputError(
                    f"the encoder gives NaN or infinity for {len(bad)} of {len(block)} images (first "
                    f"{ids[block.start + bad[0]]}): try --precision fp32, --dtype float32, or another checkpoint"
                )
            if state.is_main_process:
                written.add(block.start, features)
            bar.update(block.stop - bar.n)
    return total - done, time.perf_counter() - start


def blocks(total: int, done: int, batch: int, ranks: int) -> list[range]:
    """The rows from ``done`` on in blocks of about `BLOCK_IMAGES`, with whole batches for every rank."""
    together = batch * ranks
    size = max(1, BLOCK_IMAGES // together) * together
    return [range(start, min(start + size, total)) for start in range(done, total, size)]


def in_row_order(rows: np.ndarray, features: np.ndarray, block: range) -> np.ndarray:
    """``features`` in the order of ``block``. Raises RuntimeError unless each row of it occurs exactly once."""
    order = np.argsort(rows)
    if not np.array_equal(rows[order], block):
        raise RuntimeError(f"rows {block.start} to {block.stop} were not embedded exactly once each")
    return features[order]


def _workers(options: EmbedOptions, ranks: int) -> int:
    return min(MAX_WORKERS, max(1, available_cores() // ranks)) if options.workers is None else options.workers


def _fitted(encoder: Encoder, datasets: Sequence[Dataset], options: EmbedOptions, state: PartialState) -> Encoder:
    """The pixel baseline, fitted by rank 0 and copied to all ranks, with a record of the fit."""
    model = encoder.model
    assert isinstance(model, PixelPCA)
    splits, groups = (np.concatenate([dataset.column(name) for dataset in datasets]) for name in ("split", "group_id"))
    rows = fit_rows(splits, groups, model.seed)
    # If the fit must fail, it fails on every rank, so that none waits for another.
    if state.is_main_process or len(rows) < model.num_features:
        pictures = Pictures([dataset.images for dataset in datasets], encoder.preprocessing)
        loader = batches_of_pictures(pictures, in_batches(rows, options.batch), _workers(options, 1))
        pixels = torch.cat([pixels.flatten(1) for _, pixels in read_batches(loader)] or [torch.empty(0, 1)])
        model.fit(pixels.numpy().astype(np.float32) / 255)
    for buffer in model.buffers():
        buffer.copy_(broadcast(buffer))
    return with_origin(encoder, fit={"splits": ["train", None], "images": len(rows), "seed": model.seed})
