"""``dermeval search``: the cases most similar to photos or to indexed images, without the query's own patient."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.retrieval import output
from dermeval.retrieval.find import RECORD_COLUMNS, ImageQuery, embedded_queries, find, indexed_query, photo_query
from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.options import SearchOptions
from dermeval.retrieval.photo import MAX_CROPS, open_photo_encoder, photo_feature, photo_files, read_photo
from dermssl.commandline import Report
from dermssl.errors import InputError

log = logging.getLogger("dermssl")


def search(options: SearchOptions) -> Report:
    """Search an index; see `SearchOptions`."""
    _check(options)
    index = open_index(options.index)
    passing = index.passing(options.where)
    found = [
        find(index, query, options.k, options.include_own, options.per_image, passing, options.min_similarity)
        for query in _queries(index, options)
    ]
    written = output.write(index, found, Path(options.out)) if options.out else None
    text = "\n\n".join(
        "\n  ".join([f"cases similar to {part.query.name} in {index.folder}", *part.notes])
        + "\n"
        + _aligned(part.table)
        for part in found
    )
    data: dict[str, Any] = {"index": options.index, "where": options.where, "k": options.k, "queries": []}
    for part in found:
        hits = part.table.astype(object).where(part.table.notna(), None).to_dict("records")
        data["queries"].append({"query": part.query.name, "notes": part.notes, "hits": hits})
    data["out"] = written
    return Report(text + (f"\nwritten: {written}" if written else ""), data)


def _check(options: SearchOptions) -> None:
    if sum(map(bool, (options.photos, options.image_id, options.embeddings))) != 1:
        raise InputError("give one kind of query: image files or folders, --image-id or --embeddings")
    if options.crops > MAX_CROPS:
        raise InputError(f"--crops {options.crops}: at most {MAX_CROPS}")
    for name, given in (("--crops", options.crops > 1), ("--encoder", options.encoder)):
        if given and not options.photos:
            raise InputError(f"{name} needs PHOTOS, since the features of indexed images are fixed: leave {name} out")
    if options.min_similarity is not None and not -1 <= options.min_similarity <= 1:
        raise InputError(f"--min-similarity {options.min_similarity}: give a cosine from -1 to 1")
    if options.out is not None:
        output.check_path(Path(options.out), options.overwrite)


def _queries(index: SearchIndex, options: SearchOptions) -> list[ImageQuery]:
    if options.image_id:
        return [indexed_query(index, image_id) for image_id in options.image_id]
    if options.embeddings:
        return embedded_queries(index, options.embeddings, options.include_own)
    files = [file for given in options.photos for file in photo_files(given)]
    photos = []
    for file in files:
        try:
            photos.append((file, read_photo(file, index.info["short_side"])))
        except InputError as error:
            if len(files) == 1:
                raise
            log.warning("warning: %s: left out", error)
    if not photos:
        raise InputError(f"none of the {len(files)} files is a readable image: see the warnings above")
    encode = open_photo_encoder(index.encoder, options.encoder)
    return [photo_query(index, photo, photo_feature(encode, photo, options.crops), str(file)) for file, photo in photos]


def _aligned(table: pd.DataFrame) -> str:
    if not len(table):
        return "  none"
    shown = table.dropna(axis=1, how="all").drop(columns=[*RECORD_COLUMNS], errors="ignore")
    shown = shown.drop(columns="tone_group", errors="ignore") if "fitzpatrick" in shown else shown
    whole = {
        name: shown[name].map("{:g}".format, na_action="ignore") for name in ("fitzpatrick", "age") if name in shown
    }
    return shown.assign(**whole).to_string(index=False, na_rep="-", float_format="{:.4f}".format)
