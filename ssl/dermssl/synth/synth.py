"""``dermssl synth``: draws a synthetic data set in PASSION's layout.

It writes ``label.csv``, ``PASSION_split.csv``, ``images/{subject_id}_{n}.jpg``, ``truth.csv`` (the planted duplicates)
and ``SYNTHETIC.json``. All random numbers come from (seed, patient, photo), so the number of workers changes nothing.
"""

import functools
import io
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

import dermssl
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import InputError, counted
from dermssl.files import sha256_file, write_csv, write_json
from dermssl.parallel import process_map
from dermssl.paths import json_object, require_new_folder
from dermssl.prepare.sources.passion import SPLITS, require_known
from dermssl.prepare.tables import read_table
from dermssl.prepare.values import fitzpatrick
from dermssl.synth.options import SynthOptions
from dermssl.synth.patients import draw_photo_counts, draw_splits, invent_patients, read_patients, synthetic_id
from dermssl.synth.photo import draw_person, draw_photo

DEFAULT_PATIENTS = 400
SIZES = (8, 8192)
MARK = "SYNTHETIC.json"
"""The file that lists all others."""
KINDS = ("re-saved", "re-photographed", "flipped")
"""The kinds of planted duplicates: patients with a second record under a new id and copies of their photos."""
PATIENTS, PHOTOS, COPIES = range(3)
"""Separate streams of random numbers, so that a further patient or copy changes no other."""


class Copy(NamedTuple):
    """One planted photo: ``duplicate_file`` is a copy of ``original_file``. Both are names below ``images/``."""

    original: str
    duplicate: str
    kind: str
    original_file: str
    duplicate_file: str


def synth(options: SynthOptions) -> Report:
    """Draw a data set; see `SynthOptions`. Raises InputError before anything is written."""
    out = Path(options.out)
    written = [MARK, *json_object(out / MARK, "files")]
    require_new_folder(out, options.overwrite, written, [options.labels])
    if not SIZES[0] <= options.image_size <= SIZES[1]:
        raise InputError(f"--image-size {options.image_size} cannot be drawn: give {SIZES[0]} to {SIZES[1]}")
    labels, splits = _patients(options)
    photos = draw_photo_counts(labels["country"], np.random.default_rng([options.seed, PHOTOS]))
    random = np.random.default_rng([options.seed, COPIES])
    extra, extra_splits, copies = plan_copies(labels, photos, splits, options.duplicates, random)
    sitters = [
        (number, row, int(photos[number]), [copy for copy in copies if copy.original == row["subject_id"]])
        for number, row in enumerate(labels.to_dict("records"))
    ]
    labels, splits = pd.concat([labels, extra]), pd.concat([splits, extra_splits])
    with atomic_folder(out) as folder:
        (folder / "images").mkdir()
        draw = functools.partial(_draw_patient, folder=folder / "images", options=options)
        bar = tqdm(total=int(photos.sum()) + len(copies), desc="draw", unit="image", disable=None)
        with process_map(options.workers) as in_processes, bar:
            for drawn in in_processes(draw, sitters):
                bar.update(drawn)
        truth = pd.DataFrame(copies, columns=["subject_id", "duplicate_subject_id", "kind", "file", "duplicate_file"])
        for name, table in (("label", labels), ("PASSION_split", splits), ("truth", truth)):
            write_csv(folder / f"{name}.csv", table)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        mark = {
            "version": dermssl.__version__,
            "seed": options.seed,
            "image_size": options.image_size,
            "patients": len(labels),
            "images": int(photos.sum()) + len(copies),
            "duplicates": len({copy.duplicate for copy in copies}),
            "labels": "real" if options.labels else "invented",
            "split": "official" if _official_split(options) else "drawn",
            "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
        }
        write_json(folder / MARK, mark)
    return _report(out, mark, labels, splits, copies)


def _patients(options: SynthOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the label table and of the split table, invented or from ``--labels``."""
    if not options.labels:
        labels = invent_patients(options.patients or DEFAULT_PATIENTS, np.random.default_rng([options.seed, PATIENTS]))
        return labels, draw_splits(labels, options.seed)
    if options.patients:
        raise InputError("--patients and --labels exclude each other: the table gives the number of patients")
    path = Path(options.labels)
    if not path.is_file():
        raise InputError(f"{path} is not a file: give PASSION's label.csv with --labels")
    labels, official = read_patients(path), _official_split(options)
    if not official:
        return labels, draw_splits(labels, options.seed)
    splits = read_table(official, ("subject_id", "Split"))[["subject_id", "Split"]].dropna(subset="Split")
    splits["Split"] = splits["Split"].str.upper()
    require_known(official, "Split", splits["Split"], SPLITS)
    return labels, splits


def _official_split(options: SynthOptions) -> Path | None:
    """``PASSION_split.csv`` beside the table of ``--labels``; None if there is none."""
    path = Path(options.labels).with_name("PASSION_split.csv") if options.labels else None
    return path if path and path.is_file() else None


def _draw_patient(sitter: tuple[int, dict[str, Any], int, list[Copy]], folder: Path, options: SynthOptions) -> int:
    """Write all photos of one patient and their planted copies, and return their number.

    ``sitter`` holds the patient's number, label row, number of photos, and copies.
    """
    (place, row, photos, copies), seed = sitter, options.seed
    sites = tuple(site.strip() for site in row["body_loc"].split(";") if site.strip())
    kind, random = fitzpatrick(row["fitzpatrick"]) or 4, np.random.default_rng([seed, PHOTOS, 1 + place])
    person = draw_person(row["conditions_PASSION"], float(row["impetig"]) == 1, kind, sites, random)
    jpegs = {}
    for photo in range(photos):
        view = np.random.default_rng([seed, PHOTOS, 1 + place, 1 + photo])
        name = photo_name(row["subject_id"], photo)
        jpegs[name] = encode_photo(draw_photo(person, options.image_size, view), int(view.integers(60, 96)))
        (folder / name).write_bytes(jpegs[name])
    for number, copy in enumerate(copies):
        again = np.random.default_rng([seed, COPIES, 1 + place, 1 + number])
        (folder / copy.duplicate_file).write_bytes(copy_photo(jpegs[copy.original_file], copy.kind, again))
    return photos + len(copies)


def _report(out: Path, mark: dict, labels: pd.DataFrame, splits: pd.DataFrame, copies: list[Copy]) -> Report:
    conditions = labels["conditions_PASSION"].value_counts().sort_index()
    drawn = splits["subject_id"].isin(labels["subject_id"])  # the split file may name further subjects
    sides, images = splits["Split"][drawn].value_counts(), counted(mark["images"], "image")
    text = [
        f"SYNTHETIC data set in PASSION's layout: {images} of {counted(mark['patients'], 'patient')} -> {out}",
        "  patients: " + ", ".join(f"{name} {number}" for name, number in conditions.items()),
        "  split (patients): " + ", ".join(f"{name} {number}" for name, number in sides.items()),
        f"  planted duplicates: {counted(mark['duplicates'], 'patient')}, {counted(len(copies), 'image')} (truth.csv)",
        f"  next: dermssl prepare --source passion --root {out} --out data/synthetic",
    ]
    if mark["labels"] == "real":
        text.insert(1, "  the label rows are real: PASSION's licence applies to them; the pictures show no person")
    data = {key: value for key, value in mark.items() if key != "files"}
    return Report("\n".join(text), data | {"out": str(out), "conditions": conditions.to_dict()})


def plan_copies(
    labels: pd.DataFrame, photos: np.ndarray, splits: pd.DataFrame, count: int, random: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, list[Copy]]:
    """New label rows, new split rows and the photos to copy, for ``count`` random patients.

    The kinds take turns. Half of the new records lie in the other split than their originals, so that some leak from
    TRAIN to TEST and some do not. A record gets copies of one or more of the original's photos.
    """
    chosen = random.permutation(len(labels))[: min(count, len(labels))]
    rows = labels.iloc[chosen].copy()
    known = set(labels["subject_id"])
    free = (name for number in itertools.count(1) if (name := synthetic_id(number)) not in known)
    rows["subject_id"] = list(itertools.islice(free, len(rows)))
    side_of = dict(zip(splits["subject_id"], splits["Split"], strict=True))
    sides, copies = [], []
    for turn, (row, duplicate) in enumerate(zip(chosen, rows["subject_id"], strict=True)):
        original = labels["subject_id"].iloc[row]
        side = side_of.get(original, "TRAIN")
        sides.append({"TRAIN": "TEST", "TEST": "TRAIN"}[side] if (turn // len(KINDS)) % 2 == 0 else side)
        taken = random.permutation(photos[row])[: random.integers(1, photos[row] + 1)]
        copies += [
            Copy(original, duplicate, KINDS[turn % len(KINDS)], photo_name(original, n), photo_name(duplicate, i))
            for i, n in enumerate(sorted(taken.tolist()))
        ]
    return rows, pd.DataFrame({"subject_id": rows["subject_id"], "Split": sides}), copies


def photo_name(subject_id: str, number: int) -> str:
    """The file name below ``images/`` of a patient's photo ``number``, counted from 0."""
    return f"{subject_id}_{number + 1}.jpg"


def copy_photo(jpeg: bytes, kind: str, random: np.random.Generator) -> bytes:
    """A near-duplicate of a JPEG, made as its ``kind`` says (see `KINDS`)."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if kind == "re-photographed":
        turned = image.rotate(float(random.uniform(-5, 5)), Image.Resampling.BICUBIC)
        # At 5 degrees, a crop of more than 0.87 of a 4:3 image would have empty corners.
        share, (width, height) = random.uniform(0.80, 0.86), image.size
        left, top = (1 - share) * width / 2, (1 - share) * height / 2
        cropped = turned.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, width - left, height - top))
        image = ImageEnhance.Brightness(cropped).enhance(float(random.uniform(0.85, 1.15)))
    elif kind == "flipped":
        image = ImageOps.mirror(image)
    return encode_photo(image, int(random.integers(55, 86)))


def encode_photo(image: Image.Image, quality: int) -> bytes:
    """A JPEG with chroma subsampling, as telephones save it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
