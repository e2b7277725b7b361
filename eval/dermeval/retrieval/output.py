"""What a search found as a file: a contact sheet (PNG), a page with pictures (HTML), or a table (CSV)."""

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.retrieval import sheet
from dermeval.retrieval.find import FoundCases, ImageQuery
from dermeval.retrieval.index_folder import SearchIndex
from dermssl import licences
from dermssl.dataset.store import encode
from dermssl.errors import InputError
from dermssl.files import write_csv, write_text
from dermssl.page import render
from dermssl.paths import require_output_file

MARKS = {".png": b"Software\0dermeval", ".html": b"which is no diagnosis", ".csv": b"query,rank,similarity,"}
"""What a file that was written here holds, by its ending."""
MARKED_BYTES = 2**26
MAX_SHEET_QUERIES = 20
log = logging.getLogger("dermssl")


def check_path(path: Path, overwrite: bool) -> None:
    """Raise InputError unless ``path`` may be written: a new file, or one like those that are written here."""
    if path.suffix.lower() not in MARKS:
        raise InputError(f"--out {path} must be a file name that ends in {', '.join(MARKS)}")
    require_output_file(path, "--out", _is_ours)
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")


def _is_ours(path: Path) -> bool:
    """Whether the file shows hits: a photo, a page or a table of the user's is never replaced."""
    with path.open("rb") as stream:
        content = stream.read(MARKED_BYTES)
    mark = MARKS[path.suffix.lower()]
    return content.startswith(mark) if path.suffix.lower() == ".csv" else mark in content


def write(index: SearchIndex, queries: Sequence[ImageQuery], found: Sequence[FoundCases], path: Path) -> str | None:
    """Write the file and return its path; None, with a warning, where the pictures that it needs are out of reach."""
    kind = path.suffix.lower()
    if kind == ".csv":
        table = pd.concat([part.table.assign(query=query.name) for query, part in zip(queries, found, strict=True)])
        table.insert(0, "query", table.pop("query"))
        write_csv(path, table)
        return str(path)
    missing = sorted({name for part in found for name in part.table["dataset"]} - set(index.datasets))
    if missing:
        log.warning("warning: %s is not written: the dataset folder of %s is out of reach", path, ", ".join(missing))
        return None
    if kind == ".html":
        write_text(path, _page(index, queries, found))
        return str(path)
    if len(queries) > MAX_SHEET_QUERIES:
        log.warning("warning: the contact sheet shows the first %d of %d queries", MAX_SHEET_QUERIES, len(queries))
    pairs = list(zip(queries, found, strict=True))[:MAX_SHEET_QUERIES]
    sheet.draw_sheet(path, [_tiles(index, query, part) for query, part in pairs], index.notices)
    return str(path)


def _tiles(index: SearchIndex, query: ImageQuery, found: FoundCases) -> sheet.Block:
    """The pictures of one query and its hits, with their captions."""
    hits = [_tile(index, row) for row in found.table.to_dict("records")]
    if query.photo is not None:
        return sheet.Block(sheet.Tile(query.photo.image, ["query", Path(query.name).name]), hits)
    own = next((record for record in query.own if record["image_id"] == query.name), None)
    return sheet.Block(_tile(index, own | {"rank": None}) if own else None, hits)


def _tile(index: SearchIndex, row: dict[str, Any]) -> sheet.Tile:
    dataset = index.datasets[row["dataset"]]
    image = dataset.images.image(index.stored_rows[row["dataset"]][row["image_id"]])
    return sheet.Tile(image, sheet.caption(row, index.labels))


def _page(index: SearchIndex, queries: Sequence[ImageQuery], found: Sequence[FoundCases]) -> str:
    results = []
    for query, part in zip(queries, found, strict=True):
        own, hits = _tiles(index, query, part)
        cards = [_card(tile) for tile in hits]
        results.append({"name": query.name, "notes": part.notes, "query": own and _card(own), "hits": cards})
    return render(
        "dermeval/retrieval/hits.html",
        title=index.title,
        results=results,
        foot=[sheet.READING, *licences.notice_lines(index.notices)],
    )


def _card(tile: sheet.Tile) -> dict[str, Any]:
    return {"picture": data_uri(encode(tile.image.convert("RGB"))), "lines": tile.lines}


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it, for a page without further files."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
