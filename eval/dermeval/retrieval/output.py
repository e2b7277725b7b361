"""What a search found as a file: a contact sheet (PNG), a page with pictures (HTML), or a table (CSV)."""

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.retrieval import sheet
from dermeval.retrieval.find import Found, Query
from dermeval.retrieval.index_folder import SearchIndex
from dermssl import licences
from dermssl.dataset.store import encode
from dermssl.errors import InputError
from dermssl.files import write_csv, write_text
from dermssl.page import render
from dermssl.paths import require_output_file

ENDINGS = (".png", ".html", ".csv")
MAX_SHEET_QUERIES = 20
log = logging.getLogger("dermssl")


def check_path(path: Path, overwrite: bool) -> None:
    """Raise InputError unless ``path`` may be written: a new file, or one like those that are written here."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {path} must be a file name that ends in {', '.join(ENDINGS)}")
    require_output_file(path, "--out", _is_ours)
    if path.exists() and not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")


def _is_ours(path: Path) -> bool:
    """Whether the file shows hits: a photo, a page or a table of the user's is never replaced."""
    mark = {".png": b"Software\0dermeval", ".html": b"which is no diagnosis", ".csv": b"query,rank,"}[
        path.suffix.lower()
    ]
    return mark in path.read_bytes()


def write(index: SearchIndex, queries: Sequence[Query], found: Sequence[Found], path: Path) -> str | None:
    """Write the file and return its path; None, with a warning, where the pictures that it needs are out of reach."""
    if path.suffix.lower() == ".csv":
        parts = [part.table.assign(query=query.name) for query, part in zip(queries, found, strict=True)]
        table = pd.concat(parts)
        table.insert(0, "query", table.pop("query"))
        write_csv(path, table)
        return str(path)
    missing = sorted({name for part in found for name in part.table["dataset"]} - set(index.datasets))
    if missing:
        log.warning("warning: %s is not written: the dataset folder of %s is out of reach", path, ", ".join(missing))
        return None
    blocks = [_tiles(index, query, part) for query, part in zip(queries, found, strict=True)]
    if path.suffix.lower() == ".html":
        write_text(path, _page(index, queries, found, blocks))
        return str(path)
    if len(blocks) > MAX_SHEET_QUERIES:
        log.warning("warning: the contact sheet shows the first %d of %d queries", MAX_SHEET_QUERIES, len(blocks))
    sheet.draw(path, blocks[:MAX_SHEET_QUERIES], index.notices)
    return str(path)


def _tiles(index: SearchIndex, query: Query, found: Found) -> sheet.Block:
    labels = [target.column for target in index.targets.values()]
    hits = [
        sheet.Tile(sheet.stored_image(index.datasets[row["dataset"]], row["image_id"]), sheet.caption(row, labels))
        for row in found.table.to_dict("records")
    ]
    if query.photo is not None:
        return sheet.Block(sheet.Tile(query.photo.image, ["query", Path(query.name).name]), hits)
    known = index.row_of.get(query.name)
    if known is None:
        return sheet.Block(None, hits)
    row: dict[str, Any] = index.frame.iloc[known].to_dict()
    image = sheet.stored_image(index.datasets[row["dataset"]], query.name)
    return sheet.Block(sheet.Tile(image, sheet.caption({**row, "rank": None, "similarity": None}, labels)), hits)


def _page(index: SearchIndex, queries: Sequence[Query], found: Sequence[Found], blocks: Sequence[sheet.Block]) -> str:
    results = [
        {
            "name": query.name,
            "notes": part.notes,
            "query": _card(block.query) if block.query else None,
            "hits": [_card(tile) for tile in block.hits],
        }
        for query, part, block in zip(queries, found, blocks, strict=True)
    ]
    return render(
        "dermeval/retrieval/hits.html",
        title=f"Similar cases in {', '.join(entry['name'] for entry in index.info['datasets'])}",
        results=results,
        foot=[sheet.foot(index.notices), *licences.notice_lines(index.notices)],
    )


def _card(tile: sheet.Tile) -> dict[str, Any]:
    return {"picture": _data_uri(tile), "lines": tile.lines}


def _data_uri(tile: sheet.Tile) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode(tile.image.convert("RGB"))).decode()
