"""An index folder, opened and checked: the faiss index, the manifest rows of its entries, and their provenance."""

from dataclasses import dataclass
from pathlib import Path

from dermeval.features.embeddings import EmbeddedRows
from dermssl import neighbours
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet, require_folder

MAKER = "dermeval index"


@dataclass(frozen=True)
class SearchIndex(EmbeddedRows):
    """Entry ``i`` of ``entries`` (cosine; features normalised) is row ``i`` of the manifest."""

    entries: neighbours.Index


def open_index(folder: str | Path) -> SearchIndex:
    """Open a folder made by ``dermeval index``; raises InputError where it is not one or is damaged."""
    path = require_folder(Path(folder), "index.json", MAKER)
    info = read_json(path / "index.json", MAKER)
    table = read_parquet(path / "manifest.parquet", MAKER)
    entries = neighbours.read_index(path / "index.faiss", MAKER)
    if entries.ntotal != table.num_rows:
        raise InputError(
            f"{path}: index.faiss has {entries.ntotal} entries but the manifest {table.num_rows} rows: "
            f"make it again with `{MAKER}`"
        )
    return SearchIndex(path, info, table, entries)
