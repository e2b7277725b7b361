"""Embeddings folders -> index folder, and more of them into a finished index."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dermeval.features.embeddings import Embeddings, open_embeddings, refuse_mixed
from dermeval.retrieval.index_folder import MARK, SCHEMA_VERSION, SearchIndex, fingerprint, open_index, recall_line
from dermssl import licences, neighbours
from dermssl.atomic import atomic_folder, locked
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import write_json, write_parquet

Source = Embeddings | SearchIndex
EXACT_UP_TO = 100_000
"""Images up to which ``auto`` takes the exact index: it answers in about 10 ms there."""
SCAN_UP_TO = 20_000_000
"""Images up to which ``auto`` compares a query with all codes."""


def open_source(folder: str) -> Source:
    """An embeddings folder, or an index folder to be merged into another."""
    return open_index(folder) if (Path(folder) / MARK).is_file() else open_embeddings(folder)


def build(out: Path, parts: Sequence[Source], kind: str, memory: float | None = None) -> Report:
    """Write a new index of some embeddings and index folders; ``memory`` is the budget in GiB for ``auto``.

    Raises:
        InputError: the parts come from different encoders, or share images.
    """
    _check_parts(parts)
    return _write(out, parts, *_choose(kind, sum(map(len, parts)), parts[0].encoder["dim"], memory))


def rebuild(kept: SearchIndex) -> Report:
    """Write an index anew from the rows that are kept of it; nothing of the others stays, in codes or elsewhere."""
    return _write(kept.folder, [kept], kept.info["type"], kept.info["reason"])


def append(out: Path, added: Sequence[Source]) -> Report:
    """Add embeddings or index folders to the index at ``out``.

    Raises:
        InputError: another encoder, images that are in the index already, or a data set of the same name from
            another folder. The index is then as it was.
    """
    with locked(out):  # another command may be adding to it at this moment
        old = open_index(out)
        parts = [old, *added]
        _check_parts(parts)
        return _write(out, parts, old.info["type"], old.info["reason"], old.entries.codes)


def _choose(kind: str, images: int, dim: int, memory: float | None) -> tuple[str, str]:
    """The type of index and why."""
    if kind != "auto":
        return kind, "chosen with --type"
    budget = memory * 2**30 if memory else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    exact, codes = images * dim * 4, images * dim / 4
    sizes = f"{images} images, {exact / 2**30:.2f} GiB of vectors, {budget / 2**30:.1f} GiB of memory to use"
    if images <= EXACT_UP_TO and exact <= budget:
        return "flat", f"{sizes}: exact search is fast enough"
    if codes > budget:
        raise InputError(f"{sizes}: even the codes need {codes / 2**30:.1f} GiB: give more --memory, or --type flat")
    if images <= SCAN_UP_TO:
        return "scan", f"{sizes}: all codes are compared, and the best are ranked exactly"
    return "ivfpq", f"{sizes}: too many codes to compare all"


def _check_parts(parts: Sequence[Source]) -> None:
    refuse_mixed(parts, "embed all of them with one encoder")
    seen: dict[str, Path] = {}
    paths: dict[str, str] = {}
    for part in parts:
        ids = part.table["image_id"].to_pylist()
        twice = [image_id for image_id in ids if image_id in seen]
        if twice:
            raise InputError(
                f"{len(twice)} images of {part.folder} (first {twice[0]}) are in {seen[twice[0]]} already: "
                "give each image once"
            )
        seen |= dict.fromkeys(ids, part.folder)
        for entry in part.info["datasets"]:
            path = paths.setdefault(entry["name"], entry["path"])
            if path != entry["path"]:
                raise InputError(
                    f"{part.folder} holds another data set named '{entry['name']}' than {path}: "
                    f"prepare {entry['path']} again with another --name"
                )


def _provenance(parts: Sequence[Source]) -> dict[str, Any]:
    """Encoder, data sets and licences of all parts; of a data set that came twice the last state."""
    sources: list[str] = []
    sides: list[int | None] = []
    for part in parts:
        if isinstance(part, SearchIndex):
            sources += part.info["sources"]
            sides += [part.info["short_side"]]
        else:
            sources += [str(part.folder.resolve())]
            sides += [dataset.info["short_side"] for dataset in part.datasets.values()]
    return {
        "encoder": parts[0].encoder,
        "datasets": list({entry["name"]: entry for part in parts for entry in part.info["datasets"]}.values()),
        "licences": licences.merge(entry for part in parts for entry in part.licences),
        "sources": list(dict.fromkeys(sources)),
        "short_side": max((side for side in sides if side), default=None),
    }


def _write(out: Path, parts: Sequence[Source], kind: str, reason: str, codes: neighbours.Codes | None = None) -> Report:
    """Write the index of all parts; ``codes`` are those of the first part, which the others are added to."""
    table = pa.concat_tables([part.table for part in parts], promote_options="default")
    info = {"schema_version": SCHEMA_VERSION, "metric": "cosine", **_provenance(parts), "type": kind, "reason": reason}
    with atomic_folder(out) as temporary:
        vectors = _write_vectors(temporary / "vectors.npy", parts)
        held_out = neighbours.held_out_rows(len(vectors))
        if codes is None:
            codes = neighbours.build_codes(vectors, kind, held_out)  # type: ignore[arg-type]
        else:
            neighbours.add_codes(codes, vectors[len(parts[0]) :])
        if codes is not None:
            neighbours.write_codes(temporary / "index.faiss", codes)
        info["images"] = table.num_rows
        info["recall"] = neighbours.measured_recall(neighbours.Index(vectors, codes), held_out)
        info["files"] = {file.name: fingerprint(file) for file in sorted(temporary.iterdir())}
        write_parquet(temporary / "manifest.parquet", table)
        write_json(temporary / MARK, info)
    text = [
        f"{out}: {info['images']} images of {', '.join(entry['name'] for entry in info['datasets'])}; "
        f"{kind}, cosine, {info['encoder']['dim']} dimensions",
        f"  {reason}",
        f"  {recall_line(info)}",
        *["  " + line for line in licences.notice_lines(info["licences"])],
    ]
    return Report("\n".join(text), info | {"out": str(out)})


def _write_vectors(path: Path, parts: Sequence[Source]) -> np.ndarray:
    """Write the unit vectors of all parts to one file, a block at a time, and return it memory-mapped."""
    shape = (sum(map(len, parts)), parts[0].encoder["dim"])
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    row = 0
    for part in parts:
        for start in range(0, len(part), neighbours.BLOCK_ROWS):
            block = np.asarray(part.features[start : start + neighbours.BLOCK_ROWS])
            # Vectors of an index have unit length; to scale them again would change their last bits.
            vectors[row : row + len(block)] = block if isinstance(part, SearchIndex) else neighbours.normalise(block)
            row += len(block)
    vectors.flush()
    return vectors
