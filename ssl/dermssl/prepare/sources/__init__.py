"""The known data sets, one file each: adding one means adding one file here, called as ``--source`` names it.

A source file declares a `Source` named ``SOURCE``::

    SOURCE = Source(
        name="mine", title="My data", licence="CC-BY-4.0", citation="...", where="...",
        layout="metadata.csv, images/*.jpg", group="patient", modality="clinical",
        tables=("metadata",),
        columns=dict(
            file="img_id",             # path below the root, or a bare name: matched by stem
            patient_id="patient_id",   # raw ids: `prepare` puts the data set's name before them
            age="age_years",           # the manifest's own columns are read from the usual spellings
            diagnosis="diagnostic",    # free columns: labels and further metadata
        ),
        targets={"diagnosis": Target("diagnosis", ("eczema", "psoriasis"))},
    )

A layout of several tables has a function of its own as ``reader``, which reads it into `Rows`.
Classes that stand in the table alone go into ``rows.targets``; terms or units that do, into ``rows.source``.

``group_id`` is filled from all ids that a row has; ``case_id`` from ``Source.case``. Missing values are None, never
"" or "unknown".
"""

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from dermssl.errors import InputError, did_you_mean
from dermssl.prepare.match import match_files, settle_copies
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import found_classes, read_columns

COMMAND = "sources"
"""The file of this folder that is no data set."""


def names_in(folders: Iterable[str]) -> tuple[str, ...]:
    """The sources whose files lie in these folders, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders) if module.name != COMMAND))


NAMES = names_in(__path__)


def get_source(name: str) -> Source:
    """The source called ``name``; raises InputError naming the nearest one."""
    if name not in NAMES:
        raise InputError(f"unknown source '{name}'; {did_you_mean(name, NAMES)} (`dermssl sources` lists them)")
    return importlib.import_module(f"dermssl.prepare.sources.{name}").SOURCE


def read_source(source: Source, root: Path, follow: Path | None = None) -> Rows:
    """The rows of the raw data set in ``root``, with everything that cannot be used or was left out among the problems.

    Links may lead into the folder ``follow``.
    """
    raw = RawFolder(root, follow)
    rows = source.reader(raw) if source.reader else _read_one_table(source, raw)
    rows.frame, copies = settle_copies(rows.frame, raw)
    rows.problems += raw.problems + copies
    rows.source = rows.source or source
    if rows.source.modality:
        rows.frame["modality"] = rows.source.modality
    rows.targets = rows.source.targets | rows.targets
    return rows


def _read_one_table(source: Source, raw: RawFolder) -> Rows:
    wanted = [column[0] if isinstance(column, tuple) else column for column in source.columns.values()]
    used = [name for column in wanted for name in (column if isinstance(column, list) else [column])]
    required = [column for column in used if column not in source.optional]
    rows = read_columns(raw.table(*source.tables, required=required, only=used), source.optional, **source.columns)
    rows.targets = {name: found_classes(rows.frame, name, level) for name, level in source.found.items()}
    return match_files(raw, rows)


def known_overlaps(name: str) -> list[str]:
    """The other sources that are known to share images or lesions with this one (`Source.overlaps`, either way)."""
    own = get_source(name).overlaps
    return [other for other in NAMES if other != name and (other in own or name in get_source(other).overlaps)]
