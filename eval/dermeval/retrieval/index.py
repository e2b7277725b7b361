"""``dermeval index``: make a search index, add to one, or take images out of everything that holds them."""

from pathlib import Path

from dermeval.retrieval.build import append, build, open_source
from dermeval.retrieval.index_folder import is_address
from dermeval.retrieval.options import IndexOptions
from dermeval.retrieval.remove import remove
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.paths import require_new_folder

WRITTEN = ("index.json", "vectors.npy", "index.faiss", "manifest.parquet", "images.lance/*")


def index(options: IndexOptions) -> Report:
    """Build an index, append to one, or remove images from one; see `IndexOptions`."""
    if sum(map(bool, (options.sources, options.append, options.remove))) != 1:
        raise InputError(
            "give one of these: SOURCES to make an index, --append to add to the one at --out, or --remove"
        )
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
        return build(out, [open_source(folder) for folder in options.sources], options.type, options.memory)
    if options.type != "auto" or options.overwrite:
        raise InputError("--append and --remove keep the type of the index at --out: leave out --type and --overwrite")
    if options.append:
        return append(out, [open_source(folder) for folder in options.append])
    return remove(out, options.remove, options.also, options.index_only)
