"""Does a stamp, ruler, frame or watermark that every picture shows make the leak audit confirm different photographs?

    python scripts/bench/leaks_overlays.py DATA --work DIR [--overlay NAME ...] [--images 120] [--copies 22]
        [--share 1] [--below]

Takes one photograph per record of the dataset folder, square and of 224 px, and lays one overlay over all of them (or
over a ``--share``). Copies are further records: an overlaid photograph, changed in one of the audit's ways, or with
``--below`` a changed photograph that then gets the overlay, as when one dermatoscope sees a scene twice. Prints for
each overlay how many pairs are confirmed, how many of these are copies, the highest score of another pair, and what the
audit left out. Results are in results/leaks_overlays.md.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from dermeval.leaks.planted import KINDS, copy_of
from dermssl.dataset.dataset import open_dataset

SIDE = 224
COLUMNS = "table: labels.csv\nlicence: CC0-1.0\ncolumns:\n  file: file\n  patient_id: patient\ntargets: [label]\n"
INK, FONT = (20, 20, 20), cv2.FONT_HERSHEY_SIMPLEX


def ruler(rgb: np.ndarray) -> np.ndarray:
    """A ruler along the lower edge, 14% of the picture."""
    top, out = round(0.86 * SIDE), rgb.copy()
    out[top:] = (235, 232, 225)
    for tick in range(41):
        x, length = round(tick * SIDE / 40), 19 if tick % 10 == 0 else 14 if tick % 5 == 0 else 9
        out[top : top + length, x : x + 1] = INK
        if tick % 10 == 0:
            cv2.putText(out, str(tick // 10), (x + 2, SIDE - 3), FONT, 0.5, INK, 1, cv2.LINE_AA)
    return out


def watermark(rgb: np.ndarray) -> np.ndarray:
    """Dark letters of 60% opacity in two lines."""
    marked = rgb.copy()
    for line in (1, 2):
        cv2.putText(marked, "COPYRIGHT", (11, SIDE * line // 3), FONT, 1.5, (0, 0, 0), 3, cv2.LINE_AA)
    return cv2.addWeighted(marked, 0.6, rgb, 0.4, 0)


def stamp(rgb: np.ndarray) -> np.ndarray:
    """A camera's date in thin orange letters."""
    return cv2.putText(rgb.copy(), "2019-03-14 10:22", (78, 215), FONT, 0.68, (255, 180, 0), 1, cv2.LINE_AA)


def frame(rgb: np.ndarray) -> np.ndarray:
    """The window of a viewer: title, line and buttons on an even page."""
    page = np.full((SIDE * 3 // 2, SIDE, 3), 245, np.uint8)
    page[45 : 45 + SIDE] = rgb
    cv2.putText(page, "Hospital viewer", (11, 27), FONT, 0.9, INK, 2, cv2.LINE_AA)
    for button in range(5):
        cv2.circle(page, (22 + 45 * button, 302), 11, (60, 90, 160), -1)
    return page


def card(rgb: np.ndarray) -> np.ndarray:
    """A colour card in a corner, 7% of the picture."""
    out, colours = rgb.copy(), np.random.default_rng(3).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    out[:48, :80] = colours.repeat(16, axis=0).repeat(16, axis=1)
    return out


def signature(rgb: np.ndarray) -> np.ndarray:
    """Dark letters at another place and of another size in each picture."""
    random, out = np.random.default_rng(int(rgb.sum())), rgb.copy()
    size, place = random.uniform(0.7, 1.0), (int(random.integers(5, 30)), int(random.integers(30, SIDE - 10)))
    return cv2.putText(out, "Dr. Q. Zwei", place, cv2.FONT_HERSHEY_COMPLEX, size, (30, 10, 60), 2, cv2.LINE_AA)


def rim(rgb: np.ndarray) -> np.ndarray:
    """The round view of a dermatoscope: black outside a circle that leaves 64% of the picture."""
    view = cv2.circle(np.zeros_like(rgb), (SIDE // 2, SIDE // 2), round(0.45 * SIDE), (255, 255, 255), -1, cv2.LINE_AA)
    return np.asarray(cv2.multiply(rgb, view, scale=1 / 255))


OVERLAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda rgb: rgb,
    "date stamp": stamp,
    "ruler": ruler,
    "colour card": card,
    "frame of a viewer": frame,
    "dark watermark": watermark,
    "round view": rim,
    "signature elsewhere in each": signature,
}


def square(rgb: np.ndarray) -> np.ndarray:
    """The middle of the picture, ``(SIDE, SIDE, 3)``."""
    side = min(rgb.shape[:2])
    top, left = ((length - side) // 2 for length in rgb.shape[:2])
    return cv2.resize(rgb[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def write_raw(
    root: Path, photographs: list[np.ndarray], overlay: Callable, copies: int, share: float, below: bool
) -> None:
    """Write the overlaid photographs and the copies as a raw data set."""
    random, rows = np.random.default_rng(1), []
    root.mkdir(parents=True)
    pictures = [overlay(rgb) if random.uniform() < share else rgb for rgb in photographs]
    severities = random.uniform(0.1, 0.7, copies)
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(copies)]
    copied = photographs if below else pictures
    changed = [copy_of(copied[n], kinds[n], float(severities[n]), n) for n in range(copies)]
    pictures += [overlay(square(rgb)) for rgb in changed] if below else changed
    for number, rgb in enumerate(pictures):
        cv2.imwrite(str(root / f"{number}.png"), rgb[:, :, ::-1])
        rows.append((f"{number}.png", f"p{number}", "a"))
    pd.DataFrame(rows, columns=["file", "patient", "label"]).to_csv(root / "labels.csv", index=False)
    (root / "columns.yaml").write_text(COLUMNS)


def audited(work: Path, images: int) -> list[str]:
    """Prepare and audit ``work/raw``, and return the cells of the table."""
    for arguments in (
        ["dermssl", "prepare", "--source", "csv", "--root", work / "raw", "--out", work / "data", "--name", "mine"],
        ["dermeval", "leaks", work / "data", "--out", work / "leaks", "--planted", 0],
    ):
        subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    ranking = pd.read_parquet(work / "leaks" / "ranking.parquet")
    a, b = (ranking[f"image_id_{end}"].str.split("/").str[-1].astype(int) for end in "ab")
    copies = (np.minimum(a, b) + images == np.maximum(a, b)).to_numpy()
    hidden = json.loads((work / "leaks" / "summary.json").read_text()).get("hidden", {"images": 0, "share": 0.0})
    kept, scores = ranking["confirmed"].to_numpy(bool), ranking["score"].to_numpy(float)
    others = f"{scores[~copies].max(initial=0):.2f}"
    return [str(kept.sum()), str((kept & copies).sum()), others, str(hidden["images"]), f"{hidden['share']:.0%}"]


def main() -> None:
    """Print one row for each overlay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a dataset folder of real images")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the sets; its content is replaced")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--copies", type=int, default=22)
    parser.add_argument("--overlay", nargs="+", choices=OVERLAYS, default=list(OVERLAYS), help="default: all")
    parser.add_argument("--share", type=float, default=1.0, help="share of the photographs that show the overlay")
    parser.add_argument("--below", action="store_true", help="the copies are changed before they get the overlay")
    options = parser.parse_args()
    data = open_dataset(options.data)
    _, first = np.unique(np.array(data.column("group_id")), return_index=True)
    rows = np.random.default_rng(0).permutation(first)[: options.images]
    photographs = [square(np.asarray(data.images.image(int(row)).convert("RGB"))) for row in rows]
    print(
        "| overlay | pairs confirmed | of these copies | highest score of others | images with an overlay | left out |"
    )
    print("|---|---|---|---|---|---|")
    for name in options.overlay:
        shutil.rmtree(options.work, ignore_errors=True)
        overlay, below = OVERLAYS[name], options.below
        write_raw(options.work / "raw", photographs, overlay, options.copies, options.share, below)
        print("| " + " | ".join([name, *audited(options.work, len(photographs))]) + " |", flush=True)


if __name__ == "__main__":
    main()
