"""``dermeval index``: makes an index of embeddings folders, appends to an index, or removes images from it."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dermeval.features.embeddings import Embeddings, open_embeddings, pooled_rows, refuse_mixed, require_same_images
from dermeval.retrieval.index_folder import MARK, SearchIndex, fingerprint, is_address, open_index, recall_line
from dermeval.retrieval.options import IndexOptions
from dermssl import licences, neighbours
from dermssl.atomic import atomic_folder, locked
from dermssl.commandline import Report
from dermssl.errors import InputError, counted
from dermssl.files import new_npy, write_json, write_parquet
from dermssl.paths import require_new_folder

log = logging.getLogger("dermssl")
WRITTEN = ("index.json", "vectors.npy", "index.faiss", "manifest.parquet", "images.lance/*")
Source = Embeddings | SearchIndex
Blocks = Iterator[tuple[pa.Table, np.ndarray]]
EXACT_UP_TO = 100_000
"""Images up to which ``auto`` chooses the exact index, which then answers within about 10 ms."""
SCAN_UP_TO = 20_000_000
"""Images up to which ``auto`` chooses the type scan."""
MANIFEST_BYTES = 2000
"""Memory of the manifest per image, measured on 7,300 real images."""


def index(options: IndexOptions) -> Report:
    """Make an index, append to one, or remove images from one; see `IndexOptions`.

    InputError, with the index as it was: parts of different encoders, an image given twice, two data sets of one name.
    """
    if sum(map(bool, (options.sources, options.append, options.remove))) != 1:
        raise InputError(
            "give one of these: SOURCES to make an index, --append to add to the one at --out, or --remove"
        )
    if (options.also or options.index_only) and not options.remove:
        raise InputError("--also and --index-only belong to --remove: leave them out, or say what to remove")
    if options.memory is not None and (options.type != "auto" or not options.sources or is_address(options.out)):
        raise InputError("--memory counts only where --type auto chooses the type of a new index folder: leave it out")
    out = options.out.rstrip("/") if is_address(options.out) else Path(options.out)
    if isinstance(out, str):
        from dermeval.retrieval import object_store  # lancedb is an extra

        if options.sources:
            object_store.require_new_address(out, options.overwrite, options.sources)
        else:
            object_store.finish(out)
    elif options.sources:
        require_new_folder(out, options.overwrite, WRITTEN, options.sources, key="recall")
    if options.sources:
        parts = [open_source(folder) for folder in options.sources]
        _check_parts(parts)
        images, dim = sum(map(len, parts)), parts[0].encoder["dim"]
        if not images:
            raise InputError(f"{', '.join(options.sources)}: no images left, all were removed: embed other images")
        if isinstance(out, Path):
            return write_index(out, parts, *_choose(options.type, images, dim, options.memory))
        if options.type not in ("auto", "lance"):
            raise InputError(f"--type {options.type}: in an object store only the type lance is possible")
        return write_index(out, parts, "lance", "chosen as the only type for an object store")
    if options.type != "auto" or options.overwrite:
        raise InputError("--append and --remove keep the type of the index at --out: leave out --type and --overwrite")
    if options.remove:
        from dermeval.retrieval.remove import remove  # it imports this module

        return remove(out, options.remove, options.also, options.index_only)
    added = [open_source(folder) for folder in options.append]
    with nullcontext() if isinstance(out, str) else locked(out):  # another command may be changing this index
        old = open_index(out)
        _check_parts([old, *added])
        reason = old.info["reason"]
        reason = reason if reason.startswith(("chosen", "as for")) else f"as for the first {reason}"
        return write_index(out, [old, *added], old.info["type"], reason, grows=True)


def open_source(folder: str) -> Source:
    """Open an embeddings folder or an index."""
    indexed = is_address(folder) or (Path(folder) / MARK).is_file()
    return open_index(folder) if indexed else open_embeddings(folder)


def _choose(kind: str, images: int, dim: int, memory: float | None) -> tuple[str, str]:
    """The type of index and the reason; ``memory`` is the budget in GiB."""
    if kind != "auto":
        return kind, "chosen with --type"
    budget = memory * 2**30 if memory else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    exact, codes, manifest = images * dim * 4, images * dim / 4, images * MANIFEST_BYTES
    sizes = (
        f"{images} images, {exact / 2**30:.2f} GiB of vectors, {manifest / 2**30:.2f} GiB of manifest, "
        f"{budget / 2**30:.1f} GiB of memory to use"
    )
    if images <= EXACT_UP_TO and exact + manifest <= budget:
        return "flat", f"{sizes}: exact search is fast enough"
    if codes + manifest > budget:
        needed = f"codes and manifest need {(codes + manifest) / 2**30:.2f} GiB"
        raise InputError(f"{sizes}: {needed}: give more --memory, or --type lance, which needs none")
    if images <= SCAN_UP_TO:
        return "scan", f"{sizes}: all codes are compared, and the best are ranked exactly"
    return "ivfpq", f"{sizes}: too many codes to compare all"


def _check_parts(parts: Sequence[Source]) -> None:
    refuse_mixed(parts, "embed all of them with one encoder")
    for part in parts:
        rows = part.table.select(["image_id", "dataset", "pixel_sha256"]).to_pandas()
        for name, dataset in part.datasets.items():
            require_same_images(part.folder, dataset, rows[rows["dataset"] == name])
    seen: dict[str, Path] = {}
    paths: dict[str, str] = {}
    for part in parts:
        ids = part.table["image_id"].to_pylist()
        twice = [image_id for image_id in ids if image_id in seen]
        if twice:
            told = f"{counted(len(twice), 'image')} of {part.folder} (first {twice[0]}) already in {seen[twice[0]]}"
            raise InputError(f"{told}: give each image once")
        seen |= dict.fromkeys(ids, part.folder)
        for entry in part.info["datasets"]:
            path = paths.setdefault(entry["name"], entry["path"])
            if path != entry["path"]:
                raise InputError(
                    f"{part.folder} holds another data set named '{entry['name']}' than {path}: "
                    f"prepare {entry['path']} again with another --name"
                )


def write_index(
    out: Path | str,
    parts: Sequence[Source],
    kind: str,
    reason: str,
    kept: np.ndarray | None = None,
    grows: bool = False,
) -> Report:
    """Write the index of all parts, or of the rows ``kept`` (bool, ``(N,)``) of a single part.

    With ``grows`` the first part is the index at ``out``, whose codes are kept.
    """
    sources: list[str] = []
    sides: list[int | None] = []
    notices: list[dict[str, Any]] = []
    for part in parts:
        indexed = isinstance(part, SearchIndex)
        sources += part.info["sources"] if indexed else [str(part.folder.resolve())]
        sides += [part.info["short_side"]] if indexed else [data.info["short_side"] for data in part.datasets.values()]
        notices += part.notices if kept is None else part.info["licences"]  # a removal has changed the data sets
    info: dict[str, Any] = {
        "schema_version": 2,
        "metric": "cosine",
        "encoder": parts[0].encoder,
        "datasets": list({entry["name"]: entry for part in parts for entry in part.info["datasets"]}.values()),
        "licences": licences.merge(notices),
        "sources": list(dict.fromkeys(sources)),
        "short_side": max((side for side in sides if side), default=None),
        "type": kind,
        "reason": reason,
        "images": sum(map(len, parts)) if kept is None else int(kept.sum()),
    }
    blocks = _blocks(parts, kept)
    if isinstance(out, str):
        if closed := ", ".join(licences.restricted(info["licences"])):
            told = f"may not be passed on{licences.unrecorded(info['licences'])}: let nobody else read that address"
            log.warning("warning: ids, labels and features of %s leave this machine for %s and %s", closed, out, told)
        _write_stored(out, parts, info, blocks)
    else:
        with atomic_folder(out) as temporary:
            write = _write_lance if kind == "lance" else _write_faiss
            info["recall"] = write(temporary, parts, info, blocks, grows)
            files = sorted(file for file in temporary.rglob("*") if file.is_file())
            info["files"] = {str(file.relative_to(temporary)): fingerprint(file) for file in files}
            write_json(temporary / MARK, info)
    text = [
        f"{out}: {counted(info['images'], 'image')} of {', '.join(entry['name'] for entry in info['datasets'])}; "
        f"{kind}, cosine, {info['encoder']['dim']} dimensions",
        f"  {reason}",
        f"  {recall_line(info)}",
        *["  " + line for line in licences.notice_lines(info["licences"])],
    ]
    return Report("\n".join(text), info | {"out": str(out)})


def _write_faiss(
    folder: Path, parts: Sequence[Any], info: dict[str, Any], blocks: Blocks, grows: bool
) -> dict[str, Any]:
    """Write manifest, vectors and codes; returns the measured recall."""
    vectors = new_npy(folder / "vectors.npy", (info["images"], info["encoder"]["dim"]))
    tables, row = [], 0
    for table, unit in blocks:
        tables.append(table)
        vectors[row : row + len(unit)] = unit
        row += len(unit)
    vectors.flush()
    write_parquet(folder / "manifest.parquet", pooled_rows(tables))
    held_out = neighbours.held_out_rows(len(vectors))
    codes = parts[0].entries.codes if grows else None
    if codes is None:
        codes = neighbours.build_codes(vectors, info["type"], held_out)
    else:
        neighbours.add_codes(codes, vectors[len(parts[0]) :])
    if codes is not None:
        neighbours.write_codes(folder / "index.faiss", codes)
    return neighbours.measured_recall(neighbours.Index(vectors, codes), held_out)


def _write_lance(
    folder: Path, parts: Sequence[Any], info: dict[str, Any], blocks: Blocks, grows: bool
) -> dict[str, Any]:
    """Write the table; returns the measured recall."""
    from dermeval.retrieval import lance

    schema = lance.manifest_schema(parts)
    if grows and schema.equals(lance.manifest_schema(parts[:1])):
        lance.grow_table(folder, parts[0].folder, _blocks(parts[1:], None))
    else:
        lance.write_table(lance.database_in(folder), lance.TABLE, blocks, schema, info["encoder"]["dim"])
    return lance.table_recall(lance.open_table_in(folder, info))


def _write_stored(address: str, parts: Sequence[Any], info: dict[str, Any], blocks: Blocks) -> None:
    """Write the table of an index in an object store, as the change after the one that ``parts[0]`` was read from."""
    from dermeval.retrieval import lance, object_store

    def fill(database: Any, name: str) -> dict[str, Any]:
        lance.write_table(database, name, blocks, lance.manifest_schema(parts), info["encoder"]["dim"])
        return lance.table_recall(lance.LanceIndex(address, info, database, name), object_store.MEASURED_QUERIES)

    number = parts[0].number if parts[0].folder == address else object_store.latest(address)
    object_store.publish(address, number, info, fill)


def _blocks(parts: Sequence[Source], kept: np.ndarray | None) -> Blocks:
    """Manifest rows and unit vectors of all parts, or of the rows ``kept`` of a single part, a block at a time."""
    row = 0
    for part in parts:
        # Vectors of an index already have unit length, and scaling them again would change their last bits.
        indexed = isinstance(part, SearchIndex)
        for table, features in part.blocks():
            unit = features if indexed else neighbours.normalise(features)
            if kept is not None:
                chosen = kept[row : row + len(unit)]
                row += len(unit)
                table, unit = table.filter(pa.array(chosen)), unit[chosen]
            yield table, unit
