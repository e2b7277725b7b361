"""``dermssl licence``: the terms that travel with a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dermssl import licences
from dermssl.commandline import Report
from dermssl.dataset.options import LicenceOptions
from dermssl.errors import InputError
from dermssl.files import read_json
from dermssl.paths import inside

KEPT_IN: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "dataset.json": lambda info: [info["licence"]],
    "embedding.json": lambda info: info["licences"],
    "index.json": lambda info: info["licences"],
    "result.json": lambda info: info["licences"],
    "summary.json": lambda info: info["licences"],
    "config.json": lambda info: info["dermssl"]["licences"],
    "encoder/config.json": lambda info: info["dermssl"]["licences"],
    "best/config.json": lambda info: info["dermssl"]["licences"],  # of a run that is not finished
    "comparison.json": lambda info: info["licences"],
    "tables.json": lambda info: [info["licence"]],
}
"""Where each kind of folder keeps its notices, see `dermssl.licences.notice`."""
LIMITS = {"commercial use": "commercial", "passing it on": "redistribution", "re-linking of records": "relinking"}


def licence(options: LicenceOptions) -> Report:
    """The licence, duties and limits of everything that went into one folder."""
    folder = Path(options.folder)
    notices = read_notices(folder)
    open_ones = ", ".join(entry["dataset"] for entry in notices if entry["id"] == "unknown")
    text, limits = [str(folder), *["  " + line for line in licences.notice_lines(notices)]], {}
    for what, key in LIMITS.items():
        forbidden = any(not entry[key] for entry in notices if entry["id"] != "unknown")
        limits[what] = bool(notices) and not forbidden and not open_ones
        verdict = "NOT allowed" if forbidden else f"not known, as no licence of {open_ones} is recorded"
        text.append(f"  {what}: {verdict if forbidden or open_ones else 'allowed'}")
    if not notices:
        text[1:] = ["  no licence is recorded: find out the terms before you use, publish or pass on any of it"]
    return Report("\n".join(text), {"folder": str(folder), "licences": notices, "allowed": limits})


def read_notices(folder: Path) -> list[dict[str, Any]]:
    """Licence notices of a folder of any kind; raises InputError where there are none to be found."""
    for name, notices in KEPT_IN.items():
        if not (folder / name).is_file():
            continue
        try:
            found = notices(read_json(inside(folder, name), "the command that wrote it"))
            TypeAdapter(list[licences.Notice]).validate_python(found)
            return found
        except (KeyError, TypeError, ValidationError) as error:
            key = error.errors()[0]["loc"][-1] if isinstance(error, ValidationError) else error.args[0]
            raise InputError(
                f"{folder / name} has no notice of licences ({key}): it was not written by dermssl or dermeval"
            ) from None
    raise InputError(f"{folder} holds none of {', '.join(KEPT_IN)}: give a folder that dermssl or dermeval wrote")
