"""``dermssl licence``: shows the licences of everything that went into a folder."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dermssl import licences
from dermssl.commandline import Report
from dermssl.dataset.options import LicenceOptions
from dermssl.errors import InputError
from dermssl.files import read_json
from dermssl.paths import inside

KEPT_IN = (
    *("dataset.json", "embedding.json", "index.json", "result.json", "summary.json", "config.json"),
    *("encoder/config.json", "best/config.json", "comparison.json", "tables.json", "encoders.json", "export.json"),
    "leaks/summary.json",
)
"""The files with the licence notices of a folder: one under ``licence``, or a list under ``licences``."""
LIMITS = {"commercial use": "commercial", "passing it on": "redistribution", "re-linking of records": "relinking"}


def licence(options: LicenceOptions) -> Report:
    """Show licences, duties and limits; see `LicenceOptions`."""
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
        text[1:] = ["  no licence is recorded: find out the terms before you use, publish or pass on anything here"]
    return Report("\n".join(text), {"folder": str(folder), "licences": notices, "allowed": limits})


def read_notices(folder: Path) -> list[dict[str, Any]]:
    """The licence notices of a folder of any kind. Raises InputError if the folder holds none."""
    for name in (name for name in KEPT_IN if (folder / name).is_file()):
        try:
            info = read_json(inside(folder, name), "the command that wrote it")
            info = info["dermssl"] if name.endswith("config.json") else info
            found = [info["licence"]] if "licence" in info else info["licences"]
            TypeAdapter(list[licences.Notice]).validate_python(found)
            return found
        except (KeyError, TypeError, ValidationError) as error:
            key = error.errors()[0]["loc"][-1] if isinstance(error, ValidationError) else error.args[0]
            raise InputError(
                f"{folder / name} holds no licence notice ({key}): give a folder that dermssl or dermeval wrote"
            ) from None
    raise InputError(f"{folder} holds none of {', '.join(KEPT_IN)}: give a folder that dermssl or dermeval wrote")
