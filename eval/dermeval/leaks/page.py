"""``report.html``: the pairs side by side. Pictures are files beside the page, never part of it."""

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from dermeval.leaks.records import Records
from dermeval.leaks.verify import Picture
from dermssl import licences
from dermssl.dataset.store import ImageStore
from dermssl.files import write_text

IMAGES = "images"


def write(folder: Path, records: Records, pairs: pd.DataFrame, lines: list[str], notes: list[str], shown: int) -> None:
    """Write ``report.html`` and the pictures of the first ``shown`` pairs into the leaks folder."""
    (folder / IMAGES).mkdir()
    stores: dict[Path, ImageStore] = {}
    cards = [_card(folder, records, pair, stores) for pair in pairs.head(shown).to_dict("records")]
    template = resources.files("dermeval.leaks").joinpath("report.html").read_text(encoding="utf-8")
    html = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = html.render(
        title=lines[0],
        lines=lines[1:],
        notes=notes,
        cards=cards,
        hidden=len(pairs) - len(cards),
        licences=licences.lines(records.licences),
    )
    write_text(folder / "report.html", text)


def _card(folder: Path, records: Records, pair: dict[Any, Any], stores: dict[Path, ImageStore]) -> dict[str, Any]:
    sides = [_side(folder, records, pair[end], stores) for end in ("a", "b")]
    return {
        "sides": sides,
        "evidence": ", ".join(pair["evidence"]),
        "facts": _facts(pair),
        "alert": pair["across_splits"],
    }


def _side(folder: Path, records: Records, row: int, stores: dict[Path, ImageStore]) -> dict[str, str]:
    picture, image = records.pictures[row], records.frame.iloc[row]
    labels = [f"{name} {image[name]}" for name in records.labels if pd.notna(image[name])]
    return {
        "file": _copy(folder, picture, image["image_id"], stores),
        "image": image["image_id"],
        "group": image["group_id"],
        "split": image["split"] if pd.notna(image["split"]) else "no split",
        "labels": ", ".join(labels) or "no label",
    }


def _copy(folder: Path, picture: Picture, image_id: str, stores: dict[Path, ImageStore]) -> str:
    """Put the stored JPEG beside the page, once, under a name that no file system minds."""
    file = f"{IMAGES}/{hashlib.sha256(image_id.encode()).hexdigest()[:16]}.jpg"
    if picture.folder not in stores:
        stores[picture.folder] = ImageStore(picture.folder)
    if not (folder / file).exists():
        (folder / file).write_bytes(stores[picture.folder].jpeg(picture.row))
    return file


def _facts(pair: dict[Any, Any]) -> list[str]:
    """What was measured on a pair, in words."""
    facts = []
    if pd.notna(pair["agreement"]):
        turned = f"turned {pair['degrees']:.0f}°, enlarged {pair['scale']:.2f}x"
        facts.append(f"aligned agreement {pair['agreement']:.2f} over {100 * pair['overlap']:.0f}% of the picture")
        facts.append(("mirrored, " if pair["mirrored"] else "") + turned)
    if pd.notna(pair["hash_bits"]):
        facts.append(f"hashes differ in {pair['hash_bits']} of 64 bits")
    if pd.notna(pair["similarity"]):
        facts.append(f"embedding similarity {pair['similarity']:.3f}, {pair['normalised']:+.3f} above background")
    if pd.notna(pair["labels_agree"]) and not pair["labels_agree"]:
        facts.append("labels differ")
    return facts
