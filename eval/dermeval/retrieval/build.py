"""Embeddings folders -> index folder, and more of them into a finished index."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dermeval.features.embeddings import Embeddings, open_embeddings, refuse_mixed
from dermeval.retrieval import index_folder
from dermeval.retrieval.index_folder import MARK, SearchIndex, open_index
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
    images = sum(map(len, parts))
    chosen, reason = _choose(kind, images, parts[0].encoder["dim"], memory)
    return _write(out, parts, {"type": chosen, "reason": reason}, None)


def rebuild(kept: SearchIndex) -> Report:
    """Write an index anew from the rows that are kept of it; nothing of the others stays, in codes or elsewhere."""
    return _write(kept.folder, [kept], {key: kept.info[key] for key in ("type", "reason")}, None)


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
        return _write(out, parts, {key: old.info[key] for key in ("type", "reason")}, old.entries.codes)


def _choose(kind: str, images: int, dim: int, memory: float | None) -> tuple[neighbours.IndexType, str]:
    """The type of index and why."""
    if kind != "auto":
        return kind, "chosen with --type"  # type: ignore[return-value]
    budget = memory * 2**30 if memory else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    exact, codes = images * dim * 4, images * dim / 4
    said = f"{images} images, {exact / 2**30:.2f} GiB of vectors, {budget / 2**30:.1f} GiB of memory to use"
    if images <= EXACT_UP_TO and exact <= budget:
        return "flat", f"{said}: exact search is quick enough"
    if codes > budget:
        raise InputError(f"{said}: even the codes need {codes / 2**30:.1f} GiB: give --type lance, or more --memory")
    if images <= SCAN_UP_TO:
        return "scan", f"{said}: all codes are compared, and the best are ranked exactly"
    return "ivfpq", f"{said}: too many codes to compare all"


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
    """Encoder, data sets and licences of all that went in; of a data set that came twice the last state."""
    datasets = {entry["name"]: entry for part in parts for entry in part.info["datasets"]}
    sources = [
        part.info["sources"] if isinstance(part, SearchIndex) else [str(part.folder.resolve())] for part in parts
    ]
    sides = [_short_side(part) for part in parts]
    return {
        "encoder": parts[0].encoder,
        "datasets": list(datasets.values()),
        "licences": licences.merge(entry for part in parts for entry in part.licences),
        "sources": list(dict.fromkeys(folder for part in sources for folder in part)),
        "short_side": max((side for side in sides if side), default=None),
    }


def _short_side(part: Source) -> int | None:
    """Stored short side of the images in pixels, so that a query photo is shrunk alike; None: out of reach."""
    if isinstance(part, SearchIndex):
        return part.info["short_side"]
    return max((dataset.info["short_side"] for dataset in part.datasets.values()), default=None)


def _write(out: Path, parts: Sequence[Source], fixed: dict[str, Any], codes: neighbours.Codes | None) -> Report:
    """Write the index of all parts; ``codes`` are those of the first part, which the others are added to."""
    table = pa.concat_tables([part.table for part in parts], promote_options="default")
    info = {"schema_version": index_folder.SCHEMA_VERSION, "metric": "cosine", **_provenance(parts), **fixed}
    with atomic_folder(out) as temporary:
        vectors = index_folder.write_vectors(temporary / "vectors.npy", parts)
        held_out = neighbours.held_out_rows(len(vectors))
        if codes is None:
            codes = neighbours.build_codes(vectors, info["type"], held_out)
        else:
            neighbours.add_codes(codes, vectors[len(parts[0]) :])
        if codes is not None:
            neighbours.write_codes(temporary / "index.faiss", codes)
        info["images"] = table.num_rows
        info["recall"] = neighbours.measured_recall(neighbours.Index(vectors, codes), held_out)
        info["files"] = {file.name: index_folder.fingerprint(file) for file in sorted(temporary.iterdir())}
        write_parquet(temporary / "manifest.parquet", table)
        write_json(temporary / MARK, info)
    return _report(out, info)


def recall_line(info: dict[str, Any]) -> str:
    """How exact the index is, in one line."""
    if "index.faiss" not in info["files"]:
        return "exact search (recall 1)"
    shown = ", ".join(f"recall@{depth} {value:.4f}" for depth, value in info["recall"]["at"].items())
    return f"{shown} against exact search, measured with {info['recall']['queries']} of its images"


def _report(out: Path, info: dict[str, Any]) -> Report:
    text = [
        f"{out}: {info['images']} images of {', '.join(entry['name'] for entry in info['datasets'])}; "
        f"{info['type']}, {info['metric']}, {info['encoder']['dim']} dimensions",
        f"  {info['reason']}",
        f"  {recall_line(info)}",
        *["  " + line for line in licences.notice_lines(info["licences"])],
    ]
    return Report("\n".join(text), info | {"out": str(out)})
