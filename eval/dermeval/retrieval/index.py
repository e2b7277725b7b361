"""``dermeval index``: embeddings folder -> index folder, or one more embeddings folder into a finished index."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dermeval.features.embeddings import EmbeddedRows, Embeddings, open_embeddings
from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.options import IndexOptions
from dermssl import licences, neighbours
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import atomic_folder, require_new_folder, write_json, write_parquet


def index(options: IndexOptions) -> Report:
    """Build an index, or append to one; see `IndexOptions`."""
    if (options.embeddings is None) == (options.append is None):
        raise InputError("give one embeddings folder: EMBEDDINGS to make an index, or --append to add to --out")
    out = Path(options.out)
    if options.append is not None:
        if options.type is not None or options.overwrite:
            raise InputError("--append adds to the index at --out and keeps its type: leave out --type and --overwrite")
        return append(out, open_embeddings(options.append))
    require_new_folder(out, options.overwrite)
    return build(out, open_embeddings(str(options.embeddings)), options.type or "flat")


def build(out: Path, embeddings: Embeddings, kind: neighbours.IndexType) -> Report:
    """Write a new index of one embeddings folder."""
    entries = neighbours.build_index(embeddings.features, kind)
    info = {"type": kind, "metric": "cosine", "short_side": _short_side(embeddings), **_provenance([embeddings])}
    return _write(out, entries, embeddings.table, info)


def append(out: Path, added: Embeddings) -> Report:
    """Add an embeddings folder to the index at ``out``.

    Raises:
        InputError: another encoder, images that are in the index already, or a data set of the same name from
            another folder. The index is then as it was.
    """
    old = open_index(out)
    _check_same_space(old, added)
    neighbours.add_to_index(old.entries, added.features)
    table = pa.concat_tables([old.table, added.table], promote_options="default")
    sides = [side for side in (old.info["short_side"], _short_side(added)) if side]
    info = old.info | {"short_side": max(sides, default=None), **_provenance([old, added])}
    return _write(out, old.entries, table, info)


def _check_same_space(old: SearchIndex, added: Embeddings) -> None:
    ours, theirs = ({"features": "cls"} | part.encoder for part in (old, added))
    for key in ("fingerprint", "features", "dim", "preprocessing"):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"{added.folder} was embedded with another encoder ({key} differs: {added.encoder.get('path')}) than "
                f"{old.folder} ({old.encoder.get('path')}): embed it with the index's encoder"
            )
    twice = added.table["image_id"].filter(pc.is_in(added.table["image_id"], old.table["image_id"].combine_chunks()))
    if len(twice):
        raise InputError(
            f"{len(twice)} images of {added.folder} (first {twice[0].as_py()}) are in {old.folder} already: "
            "append only new data"
        )
    paths = {entry["name"]: entry["path"] for entry in old.info["datasets"]}
    for entry in added.info["datasets"]:
        if paths.get(entry["name"], entry["path"]) != entry["path"]:
            raise InputError(
                f"{old.folder} already holds another data set named '{entry['name']}' ({paths[entry['name']]}): "
                f"prepare {entry['path']} again with another --name"
            )


def _provenance(sources: list[EmbeddedRows]) -> dict[str, Any]:
    """Encoder, data sets and licences of all that went in; of a data set that came twice the last state."""
    datasets = {entry["name"]: entry for source in sources for entry in source.info["datasets"]}
    return {
        "encoder": sources[0].encoder,
        "datasets": list(datasets.values()),
        "licences": licences.merge(entry for source in sources for entry in source.licences),
    }


def _short_side(embeddings: Embeddings) -> int | None:
    """Stored short side of the images in pixels, so that a query photo is shrunk alike; None: out of reach."""
    return max((dataset.info["short_side"] for dataset in embeddings.datasets.values()), default=None)


def _write(out: Path, entries: neighbours.Index, table: pa.Table, info: dict[str, Any]) -> Report:
    info = info | {"images": table.num_rows, "recall": neighbours.measured_recall(entries)}
    with atomic_folder(out) as temporary:
        neighbours.write_index(temporary / "index.faiss", entries)
        write_parquet(temporary / "manifest.parquet", table)
        write_json(temporary / "index.json", info)
    return _report(out, info)


def _report(out: Path, info: dict[str, Any]) -> Report:
    recall = info["recall"]
    text = [
        f"{out}: {info['images']} images of {', '.join(entry['name'] for entry in info['datasets'])}; "
        f"{info['type']}, {info['metric']}, {info['encoder']['dim']} dimensions",
        "  exact search (recall 1)"
        if info["type"] == "flat"
        else f"  recall@{recall['k']} {recall['value']:.4f} against exact search, {recall['queries']} queries",
        *["  " + line for line in licences.lines(info["licences"])],
    ]
    return Report("\n".join(text), info | {"out": str(out)})
