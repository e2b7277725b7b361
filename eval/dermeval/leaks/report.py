"""``report.html``: the pairs side by side. The pictures are files beside the page."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.leaks.pictures import store_of
from dermeval.leaks.records import AuditedImages
from dermeval.leaks.summary import finding
from dermssl import licences, page
from dermssl.files import write_text

IMAGES = "images"
LOCAL = (
    "This folder stays on this machine: it holds pictures of patients. Do not pass it on or publish it. The licences "
    "are at the foot of this page."
)


def write_report(
    folder: Path,
    images: AuditedImages,
    pairs: pd.DataFrame,
    data: dict[str, Any],
    terms: dict[str, str],
    steps: list[str],
) -> None:
    """Write ``report.html`` and the pictures of the first pairs into the leaks folder.

    ``data`` is the content of ``summary.json``; ``terms`` are results in words, and ``steps`` what to do next.
    """
    cards = [
        {
            "sides": [shown_image(folder, images, pair[end]) for end in ("a", "b")],
            "kind": pair["kind"],
            "facts": facts(pair),
            "alert": pair["across_splits"],
        }
        for pair in pairs.head(data["shown"]).to_dict("records")
    ]
    values = {"title": finding(data), "terms": terms, "steps": steps, "hidden": len(pairs) - len(cards)}
    write_page(folder, "report", images, data["notes"], cards=cards, **values)


def write_page(folder: Path, template: str, images: AuditedImages, notes: list[str], **values: Any) -> None:
    """Write ``report.html`` from a template."""
    foot = licences.notice_lines(images.licences)
    html = page.render(f"dermeval/leaks/{template}.html", notes=[LOCAL, *notes], foot=foot, **values)
    write_text(folder / "report.html", html)


def side_of(images: AuditedImages, row: int) -> dict[str, str]:
    """Ids, split and labels of one image, as text."""
    image = images.frame.iloc[row]
    labels = [f"{name}: {image[name]}" for name in images.labels if pd.notna(image[name])]
    return {
        "image": image["image_id"],
        "group": image["group_id"],
        "split": image["split"] if pd.notna(image["split"]) else "no split",
        "labels": ", ".join(labels) or "no label",
    }


def shown_image(folder: Path, images: AuditedImages, row: int) -> dict[str, str]:
    """`side_of`, and ``file``: the stored JPEG, copied beside the page under a name that every file system accepts."""
    file = f"{IMAGES}/{hashlib.sha256(images.frame['image_id'].iloc[row].encode()).hexdigest()[:16]}.jpg"
    (folder / IMAGES).mkdir(exist_ok=True)
    picture = images.pictures[row]
    jpeg = bytes(store_of(picture.folder, picture.version).jpeg(picture.row))
    if not (folder / file).exists() or (folder / file).stat().st_size != len(jpeg):  # a kill leaves a cut-off file
        (folder / file).write_bytes(jpeg)
    return side_of(images, row) | {"file": file}


def facts(pair: dict[Any, Any]) -> list[str]:
    """The evidence of a pair, in words."""
    told = [f"found by {', '.join(pair['evidence'])}"]
    if pd.notna(pair.get("inliers")):
        told.append(f"{pair['inliers']:.0f} of {pair['matches']:.0f} matched local features agree")
    if pd.notna(pair.get("degrees")):
        told.append(
            f"aligned structure correlates {pair['correlation']:.2f} over {100 * pair['overlap']:.0f}% of the picture"
        )
        told.append(transform(pair))
    if pd.notna(pair.get("hash_bits")):
        told.append(f"hashes differ in {pair['hash_bits']:.0f} of 64 bits")
    if pair["expected_false"]:
        few = pair["expected_false"] < 0.01
        number = "fewer than 0.01" if few else format(pair["expected_false"], ".2g")
        told.append(f"score {pair['score']:.2f}: {number} false pairs with at least this score expected")
    if pd.notna(pair["labels_agree"]) and not pair["labels_agree"]:
        told.append("labels differ")
    return told


def transform(pair: dict[Any, Any]) -> str:
    """The transform of the second picture against the first, in words."""
    parts = ["mirrored"] if pair["mirrored"] else []
    if abs(pair["degrees"]) >= 1:
        parts.append(f"turned by {pair['degrees']:.0f}°")
    if abs(pair["scale"] - 1) >= 0.02:
        parts.append(f"{'enlarged' if pair['scale'] > 1 else 'shrunk'} {pair['scale']:.2f}x")
    return f"the second picture is {', '.join(parts)}" if parts else "the second picture is neither turned nor resized"
