"""The known data sets, one file each: adding one means adding one file here, called as ``--source`` names it.

A source file declares a `Source` named ``SOURCE`` and reads the official layout into `Records`::

    def read(root: Path) -> Records:
        table = read_table(find_file(root, "metadata.csv"), required=("img_id", "patient_id"))
        frame = pd.DataFrame({
            "file": table["img_id"],           # path below root, or a bare name: matched by stem
            "patient_id": table["patient_id"], # raw ids: `prepare` puts the data set's name before them
            "diagnosis": table["diagnostic"],  # free columns: labels and further metadata
        })
        return match_images(root, frame)

    SOURCE = Source(name="mine", title="My data", licence="CC-BY-4.0", citation="...", where="...",
                    layout="metadata.csv, images/*.jpg", group="patient", case="patient",
                    targets={"diagnosis": Target("diagnosis", ("eczema", "psoriasis"))}, read=read)

Where the table says more than can be declared (its classes, say), return ``Records(..., source=...)`` with a source
that has it: ``dataclasses.replace(SOURCE, targets=...)``.

``group_id`` and ``case_id`` are filled from ``Source.group`` and ``Source.case`` (finest known of patient, case,
lesion, image) unless the frame has these columns itself. Missing values are None or NaN, never "" or "unknown".
"""

import importlib
import pkgutil
from collections.abc import Iterable

from dermssl.errors import InputError, did_you_mean
from dermssl.prepare.sources.source import Source

MECHANICS = {"images", "labels", "source", "tables"}
"""Files of this folder that are no data set."""


def names_in(folders: Iterable[str]) -> tuple[str, ...]:
    """The sources whose files lie in these folders, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders) if module.name not in MECHANICS))


NAMES = names_in(__path__)


def get_source(name: str) -> Source:
    """The source called ``name``; raises InputError naming the nearest one."""
    if name not in NAMES:
        raise InputError(f"unknown source '{name}'; {did_you_mean(name, NAMES)} (`dermssl sources` lists them)")
    return importlib.import_module(f"dermssl.prepare.sources.{name}").SOURCE


def known_overlaps(name: str) -> list[str]:
    """The other sources that are known to share images or lesions with this one (`Source.overlaps`, either way)."""
    return [
        other
        for other in NAMES
        if other != name and (other in get_source(name).overlaps or name in get_source(other).overlaps)
    ]
