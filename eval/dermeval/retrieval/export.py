"""``dermeval export``: embeddings with their pictures and labels, in the formats of other programs.

``atlas``: Apple's embedding-atlas. ``fiftyone``: Voxel51's FiftyOne (dataset type FiftyOneDataset). ``projector``:
TensorBoard's projector. ``lance``: a LanceDB table. Every folder holds ``export.json`` with licences and provenance.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from dermeval.retrieval.index import Source, open_source
from dermeval.retrieval.lance import require_names, require_package
from dermeval.retrieval.options import EmbeddingsExportOptions
from dermssl import licences, neighbours
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import InputError, counted
from dermssl.files import write_json, write_parquet, write_text
from dermssl.parser import refuse_unused
from dermssl.paths import require_new_folder

MARK = "export.json"
WRITTEN = (
    *(MARK, "embeddings.parquet", "data/*.jpg", "metadata.*", "samples.json", "tensors.bytes"),
    *("projector_config.pbtxt", "sprite.png", "images.lance/*"),
)
PROJECTED = ("atlas", "fiftyone")
"""The formats that hold a 2-D projection. TensorBoard's page makes its own."""
HIDDEN = ("phash", "sha256", "pixel_sha256", "file")
SPRITE_SIDE, MOST_SPRITE_SIDE = 64, 8192
"""Side in pixels of one picture in TensorBoard's sprite, and of the largest sprite that browsers draw."""
ROWS_AT_ONCE = 1024
FEWEST_TO_PROJECT = 10
"""UMAP and t-SNE arrange each image among several neighbours, and so need some images."""


def export(options: EmbeddingsExportOptions) -> Report:
    """Write an embeddings or index folder for another program; see `EmbeddingsExportOptions`.

    Raises InputError if a licence forbids passing the images on, images are out of reach, or a package is missing.
    """
    out = require_new_folder(Path(options.out), options.overwrite, WRITTEN, [options.source], key="exported_to")
    if options.to not in PROJECTED and options.projection != "pca":
        raise InputError(f"--projection {options.projection}: {options.to} gets no projection: leave it out")
    if options.to != "atlas":
        refuse_unused(options, ["neighbours"], "--to atlas")
    source = open_source(options.source)
    notices = source.notices
    closed = licences.restricted(notices)
    if closed:
        raise InputError(
            f"{options.source}: the licence of {', '.join(closed)} forbids passing the images on"
            f"{licences.unrecorded(notices)}, so they cannot be exported: use `dermeval serve`, which shows "
            "them on this machine only"
        )
    source.require_pictures()
    write, hint = FORMATS[options.to]
    with atomic_folder(out) as temporary:
        write(temporary, source, options)
        info = {"exported_to": options.to, "encoder": source.encoder["path"], "images": len(source)}
        write_json(temporary / MARK, info | {"synthetic": source.synthetic, "licences": notices})
    text = [
        f"{out}: {counted(len(source), 'image')}; open it with",
        f"  {hint.format(out=out)}",
        *licences.notice_lines(notices),
    ]
    return Report("\n".join(text), info | {"out": str(out), "licences": notices})


def _columns(source: Source, *added: str) -> pd.DataFrame:
    """The columns of the manifest with one value per cell; the list of body sites becomes text.

    A column with the name of one of those that the format adds (``added``) gets an underscore.
    """
    sites = source.frame["body_site"].map(", ".join, na_action="ignore")
    frame = source.frame.drop(columns=list(HIDDEN)).assign(body_site=sites)
    return frame.dropna(axis=1, how="all").rename(columns={name: f"{name}_" for name in added}).reset_index(drop=True)


def _jpegs(source: Source) -> Iterator[bytes]:
    """The stored JPEGs in row order."""
    for name, image_id in zip(source.frame["dataset"], source.frame["image_id"], strict=True):
        jpeg = source.stored_jpeg(name, image_id)
        if jpeg is None:
            raise InputError(f"{source.folder}: image {image_id} is no longer in its data set: embed the data again")
        yield jpeg


def _projected(unit: np.ndarray, kind: str) -> np.ndarray:
    """Unit features ``(N, D)`` projected to ``(N, 2)``, with a fixed seed. A missing second direction is 0."""
    if kind != "pca" and len(unit) < FEWEST_TO_PROJECT:
        raise InputError(f"--projection {kind} needs at least {FEWEST_TO_PROJECT} images: use pca")
    if kind == "umap":
        umap = require_package("umap", "umap-learn")
        return umap.UMAP(metric="cosine", random_state=0).fit_transform(unit)
    if kind == "tsne":
        return np.asarray(require_package("openTSNE", "openTSNE").TSNE(metric="cosine", random_state=0).fit(unit))
    from sklearn.decomposition import PCA

    if len(unit) < 2:
        return np.zeros((len(unit), 2))
    axes = min(2, unit.shape[1])
    places = PCA(axes, svd_solver="randomized", random_state=0).fit_transform(unit)
    return np.pad(places, ((0, 0), (0, 2 - axes)))


def _write_atlas(folder: Path, source: Source, options: EmbeddingsExportOptions) -> None:
    unit = neighbours.normalise(np.asarray(source.features))
    scores, rows = neighbours.search_exact(unit, unit, options.neighbours + 1)
    near = []
    for row, (found, similarity) in enumerate(zip(rows, scores, strict=True)):
        other = np.flatnonzero(found != row)[: options.neighbours]
        near.append({"ids": found[other].tolist(), "distances": (1 - similarity[other]).tolist()})
    x, y = _projected(unit, options.projection).T
    columns = _columns(source, "x", "y", "neighbors", "image").assign(x=x, y=y, neighbors=near)
    table = pa.Table.from_pandas(columns, preserve_index=False)
    pictures = pa.array([{"bytes": jpeg} for jpeg in _jpegs(source)], pa.struct([("bytes", pa.binary())]))
    write_parquet(folder / "embeddings.parquet", table.append_column("image", pictures))


def _write_fiftyone(folder: Path, source: Source, options: EmbeddingsExportOptions) -> None:
    """Write ``metadata.json`` and ``samples.json`` without a version, so that FiftyOne fills in its own fields."""
    features = np.asarray(source.features)
    places = _projected(neighbours.normalise(features), options.projection)
    columns = _columns(source, "filepath", "tags", "x", "y", "embedding").astype(object)
    labels, samples = {target.column for target in source.targets.values()}, []
    (folder / "data").mkdir()
    for row, (jpeg, cells) in enumerate(zip(_jpegs(source), columns.to_dict("records"), strict=True)):
        picture = f"data/{row:07d}.jpg"
        (folder / picture).write_bytes(jpeg)
        known = {name: cell for name, cell in cells.items() if pd.notna(cell)}
        tags = [str(known.pop(name)) for name in ("dataset", "split") if name in known]
        known |= {name: {"_cls": "Classification", "label": str(known[name])} for name in labels & set(known)}
        place = {"x": float(places[row, 0]), "y": float(places[row, 1]), "embedding": features[row].tolist()}
        samples.append({"filepath": picture, "tags": tags, **known, **place})
    name = "-".join(entry["name"] for entry in source.info["datasets"])
    info = {"encoder": source.encoder["path"], "licences": licences.notice_lines(source.notices)}
    write_json(folder / "metadata.json", {"name": name, "media_type": "image", "info": info})
    write_text(folder / "samples.json", json.dumps({"samples": samples}))


def _write_projector(folder: Path, source: Source, options: EmbeddingsExportOptions) -> None:
    features = np.ascontiguousarray(source.features, np.float32)
    features.tofile(folder / "tensors.bytes")
    columns = _columns(source).astype(object)
    rows = [list(columns), *columns.where(columns.notna(), "").to_numpy()]
    tabs = [[re.sub(r"[\t\r\n]+", " ", str(cell)) for cell in row] for row in rows]
    write_text(folder / "metadata.tsv", "".join("\t".join(row) + "\n" for row in tabs))
    across = math.ceil(math.sqrt(len(source)))
    side = min(SPRITE_SIDE, MOST_SPRITE_SIDE // across)
    config = f"""embeddings {{
  tensor_name: "images"
  tensor_path: "tensors.bytes"
  tensor_shape: {len(features)}
  tensor_shape: {features.shape[1]}
  metadata_path: "metadata.tsv"
  sprite {{ image_path: "sprite.png" single_image_dim: {side} single_image_dim: {side} }}
}}
"""
    write_text(folder / "projector_config.pbtxt", config)
    sprite = Image.new("RGB", (across * side, across * side))
    for row, jpeg in enumerate(_jpegs(source)):
        picture = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((side, side), Image.Resampling.BOX)
        sprite.paste(picture, (row % across * side, row // across * side))
    sprite.save(folder / "sprite.png")


def _write_lance(folder: Path, source: Source, options: EmbeddingsExportOptions) -> None:
    lancedb = require_package("lancedb", "lancedb")
    numbers = pa.array(np.ascontiguousarray(source.features, np.float32).ravel())
    columns = _columns(source, "vector", "jpeg")
    require_names(columns)
    table = pa.Table.from_pandas(columns, preserve_index=False)
    table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(numbers, source.encoder["dim"]))
    jpegs = _jpegs(source)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in table.to_batches(ROWS_AT_ONCE):  # not read from LanceDB, which cannot read while it writes
            pictures = pa.array([next(jpegs) for _ in range(batch.num_rows)], pa.binary())
            yield batch.append_column("jpeg", pictures)

    schema = table.schema.append(pa.field("jpeg", pa.binary()))
    lancedb.connect(folder).create_table("images", data=batches(), schema=schema)


FORMATS: dict[str, tuple[Callable[[Path, Source, EmbeddingsExportOptions], None], str]] = {
    "atlas": (_write_atlas, "embedding-atlas {out}/embeddings.parquet --x x --y y --neighbors neighbors"),
    "fiftyone": (
        _write_fiftyone,
        "fiftyone app launch, after: fiftyone datasets create --dataset-dir {out} "
        "--type fiftyone.types.FiftyOneDataset",
    ),
    "lance": (_write_lance, "python -c \"import lancedb; print(lancedb.connect('{out}').open_table('images'))\""),
    "projector": (_write_projector, "tensorboard --logdir {out}, then PROJECTOR"),
}
"""For each format the function that writes it, and the command that opens it."""
