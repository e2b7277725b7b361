"""The known data sets, one file each. To add one, add a file here with the name that ``--source`` shall take.

The file declares a `Source` named ``SOURCE``::

    SOURCE = Source(
        name="mine", title="My data", licence="CC-BY-4.0", citation="...", where="...",
        layout="metadata.csv, images/*.jpg", group="patient", modality="clinical",
        tables=("metadata",),
        columns=dict(
            file="img_id",             # path below the root, or bare name, with or without suffix
            patient_id="patient_id",   # raw id, without the data set's name
            age="age_years",           # the manifest's fixed columns are read from the usual spellings
            diagnosis="diagnostic",    # free columns hold labels and further metadata
        ),
        targets={"diagnosis": Target("diagnosis", ("eczema", "psoriasis"))},
    )

For any other layout, ``reader`` is a function that reads a `RawFolder` into `Rows`. It puts targets whose classes are
found in the table into ``Rows.targets``, and a licence or units found there into ``Rows.source``. Missing values are
None, never "" or "unknown".
"""

import importlib
import pkgutil
from pathlib import Path

from dermssl.errors import InputError, did_you_mean
from dermssl.prepare.columns import found_classes, read_columns
from dermssl.prepare.match import match_files, settle_copies
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source

COMMAND = "sources"
"""The file of this folder that holds a command, not a data set."""
NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != COMMAND))


def get_source(name: str) -> Source:
    """The source called ``name``; raises InputError naming the nearest one."""
    if name not in NAMES:
        raise InputError(f"unknown source '{name}'; {did_you_mean(name, NAMES)} (`dermssl sources` lists them)")
    return importlib.import_module(f"dermssl.prepare.sources.{name}").SOURCE


def read_source(source: Source, root: Path, follow: Path | None = None) -> Rows:
    """Read the raw data set in ``root``, with all problems. Links may lead into the folder ``follow``."""
    raw = RawFolder(root, follow)
    rows = source.reader(raw) if source.reader else _read_one_table(source, raw)
    rows.frame, rows.problems = settle_copies(raw, rows.frame), raw.problems
    rows.source = rows.source or source
    if rows.source.modality:
        rows.frame["modality"] = rows.source.modality
    rows.targets = rows.source.targets | rows.targets
    return rows


def _read_one_table(source: Source, raw: RawFolder) -> Rows:
    wanted = [column[0] if isinstance(column, tuple) else column for column in source.columns.values()]
    used = [name for column in wanted for name in (column if isinstance(column, list) else [column])]
    required = [column for column in used if column not in source.optional]
    table = raw.table(*source.tables, required=required, only=used)
    frame = read_columns(raw, table, source.optional, **source.columns)
    if "split" in frame and set(frame["split"].dropna()) == {"train"}:  # says nothing, as in BCN20000
        frame["split"] = None
    targets = {name: found_classes(frame, name, level) for name, level in source.found.items()}
    return Rows(match_files(raw, frame), targets=targets)


def known_overlaps(name: str) -> list[str]:
    """The sources that share images or lesions with the source ``name``, see `Source.overlaps`."""
    own = get_source(name).overlaps
    return [other for other in NAMES if other in own or name in get_source(other).overlaps]
