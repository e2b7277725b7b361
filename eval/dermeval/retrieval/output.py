"""The result of a search as a file: a contact sheet (PNG), a page with pictures (HTML), or a table (CSV)."""

import base64
import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from dermeval.retrieval.find import FoundCases
from dermeval.retrieval.index_folder import SearchIndex
from dermssl import licences
from dermssl.atomic import atomic_file
from dermssl.dataset.store import encode
from dermssl.errors import InputError
from dermssl.files import write_csv, write_text
from dermssl.page import render, shown_label
from dermssl.paths import require_output_file

MARKS = {".png": b"Software\0dermeval", ".html": b"which is no diagnosis", ".csv": b"query,rank,similarity,"}
"""For each ending a text that only files written here hold."""
MAX_SHEET_QUERIES, COLUMNS, CAPTION_LETTERS = 20, 5, 34
TILE_INCHES, CAPTION_INCHES = 2.1, 0.65
READING = "Ranked by the encoder's similarity, which is no diagnosis."
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")
INK, FAINT, ACCENT = "#1f2328", "#6e7781", "#0969da"
log = logging.getLogger("dermssl")


class Tile(NamedTuple):
    """One picture with the lines under it."""

    image: Image.Image
    lines: list[str]


Block = tuple[Tile | None, Sequence[Tile]]
"""One query (None if its picture is out of reach) and its hits."""


def check_path(path: Path, overwrite: bool) -> None:
    """Raise InputError unless ``path`` is new, or is a result of an earlier search and ``overwrite`` is set."""
    if path.suffix.lower() not in MARKS:
        raise InputError(f"--out {path} must be a file name that ends in {', '.join(MARKS)}")
    require_output_file(path, "--out", _is_ours)
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")


def _is_ours(path: Path) -> bool:
    """Whether a search wrote this file, so that no other file of the user is replaced."""
    kind = path.suffix.lower()
    place = path.read_bytes().find(MARKS[kind])
    return place == 0 if kind == ".csv" else place >= 0


def write(index: SearchIndex, found: Sequence[FoundCases], path: Path) -> str | None:
    """Write the file and return its path; None, with a warning, if pictures of hits are out of reach."""
    kind = path.suffix.lower()
    if kind == ".csv":
        table = pd.concat([part.table.assign(query=part.query.name) for part in found])
        table.insert(0, "query", table.pop("query"))
        write_csv(path, table)
        return str(path)
    hits = [(hit["dataset"], hit["image_id"]) for part in found for hit in part.hits]
    missing = sorted({dataset for dataset, image in hits if index.stored_jpeg(dataset, image) is None})
    if missing:
        log.warning("warning: %s is not written: images of %s are out of reach", path, ", ".join(missing))
        return None
    if kind == ".png":
        if len(found) > MAX_SHEET_QUERIES:
            log.warning("warning: the contact sheet shows the first %d of %d queries", MAX_SHEET_QUERIES, len(found))
        _draw_sheet(path, [_block(index, part) for part in found[:MAX_SHEET_QUERIES]], index.notices)
        return str(path)
    results = [
        {"name": part.query.name, "notes": part.notes, "query": own and _card(own), "hits": list(map(_card, hits))}
        for part in found
        for own, hits in [_block(index, part)]
    ]
    foot = [READING, *licences.notice_lines(index.notices)]
    write_text(path, render("dermeval/retrieval/hits.html", title=index.title, results=results, foot=foot))
    return str(path)


def _block(index: SearchIndex, found: FoundCases) -> Block:
    """The pictures of one query and its hits, with their captions."""

    def tile(row: dict[str, Any]) -> Tile:
        dataset = index.datasets[row["dataset"]]
        return Tile(dataset.images.image(dataset.rows[row["image_id"]]), _caption(row, index.labels))

    query, hits = found.query, [tile(row) for row in found.table.to_dict("records")]
    if query.photo is not None:
        return Tile(query.photo.image, ["query", Path(query.name).name]), hits
    own = next((record for record in query.own if record["image_id"] == query.name), None)
    in_reach = own is not None and index.stored_jpeg(own["dataset"], query.name) is not None
    return (tile(own | {"rank": None}) if own and in_reach else None), hits


def _caption(row: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Lines under a picture: rank and similarity, labels and skin type, file name."""
    facts = [shown_label(row[name], name) for name in labels if pd.notna(row.get(name))]
    if pd.notna(row.get("fitzpatrick")):
        facts.append(f"skin type {SKIN_TYPES[int(row['fitzpatrick']) - 1]}")
    head = "query" if row["rank"] is None else f"{row['rank']}   {row['similarity']:.3f}"
    return [head, ", ".join(facts) or "no label", str(row["image_id"]).rsplit("/", 1)[-1]]


def _card(tile: Tile) -> dict[str, Any]:
    return {"picture": data_uri(encode(tile.image.convert("RGB"))), "lines": tile.lines}


def data_uri(jpeg: bytes) -> str:
    """A JPEG as a data URI, for a page without further files."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _draw_sheet(path: Path, blocks: Sequence[Block], notices: Sequence[dict[str, Any]]) -> None:
    """Write the contact sheet as PNG: each query at the left, its hits in rows of at most five at the right."""
    columns = min(COLUMNS, max(1, *(len(hits) for _, hits in blocks)))
    rows = [
        [None if start else query, *hits[start : start + columns]]
        for query, hits in blocks
        for start in range(0, max(1, len(hits)), columns)
    ]
    shares = [min(1.0, tile.image.height / tile.image.width) for row in rows for tile in row if tile]
    tall = TILE_INCHES * max(shares, default=0.1)
    foot = sheet_foot(notices, round((columns + 1) * TILE_INCHES * 22))
    below = 0.15 + 0.1 * len(foot)
    height = len(rows) * (tall + CAPTION_INCHES) + below
    figure = Figure(figsize=((columns + 1) * TILE_INCHES, height), facecolor="white", dpi=150)
    grid = figure.subplots(len(rows), columns + 1, squeeze=False)
    figure.subplots_adjust(
        0.01, (below + CAPTION_INCHES) / height, 0.995, 1 - 0.1 / height, wspace=0.06, hspace=CAPTION_INCHES / tall
    )
    for places, row in zip(grid, rows, strict=True):
        for column, axes in enumerate(places):
            tile = row[column] if column < len(row) else None
            axes.set(xticks=[], yticks=[], anchor="NW", visible=tile is not None)
            for spine in axes.spines.values():
                spine.set(visible=column == 0, color=ACCENT, linewidth=2)
            if tile:
                axes.imshow(np.asarray(tile.image), interpolation="antialiased")
                lines = [
                    line if len(line) <= CAPTION_LETTERS else line[: CAPTION_LETTERS - 1] + "…" for line in tile.lines
                ]
                axes.set_xlabel(_literal("\n".join(lines)), loc="left", fontsize=7, color=INK)
    figure.text(0.01, 0.1 / height, _literal("\n".join(foot)), fontsize=6, color=FAINT)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "dermeval"})


def sheet_foot(notices: Sequence[dict[str, Any]], letters: int) -> list[str]:
    """Lines under the sheet: how to read it, whether it must stay on this machine, and the licences."""
    closed = ", ".join(licences.restricted(notices))
    text = [READING]
    text += [f"Do not pass this sheet on: the licence keeps pictures of {closed} where they are."] if closed else []
    text += [f"{entry['dataset']}: {entry['name']}. {entry['attribution']}" for entry in notices]
    return [line for part in text for line in textwrap.wrap(part, letters)]


def _literal(text: str) -> str:
    """Text for matplotlib, in which ``$`` would begin a formula."""
    return text.replace("$", r"\$").encode("utf-8", "replace").decode()
