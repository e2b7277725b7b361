"""``dermssl synth``: a synthetic stand-in in PASSION's own layout, to try everything before the real data arrives.

Writes ``label.csv``, ``PASSION_split.csv``, ``images/{subject_id}_{n}.jpg``, ``truth.csv`` (planted duplicates) and
``SYNTHETIC.json``. Every random number comes from (seed, patient, photo): workers and their number change nothing.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

import dermssl
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import sha256_file, write_csv, write_json
from dermssl.paths import json_object, require_new_folder
from dermssl.prepare.tables import read_table
from dermssl.prepare.values import fitzpatrick
from dermssl.processes import process_map
from dermssl.synth.copies import Copy, copy_photo, encode_photo, photo_name, plan_copies
from dermssl.synth.options import SynthOptions
from dermssl.synth.patients import draw_photo_counts, draw_splits, invent_patients, read_patients
from dermssl.synth.photo import draw_person, draw_photo

DEFAULT_PATIENTS = 400
SIZES = (8, 8192)
MARK, MARK_OF_OLD = "SYNTHETIC.json", ("label.csv", "PASSION_split.csv", "images/*.jpg", "truth.csv")
"""The file that names all others, and what a folder holds where an older version named none."""
PATIENTS, PHOTOS, COPIES = range(3)
"""Streams of random numbers, so that one more patient or copy shifts nothing else."""


class Sitter(NamedTuple):
    """One patient to be drawn, as sent to a worker."""

    number: int
    subject_id: str
    condition: str
    impetigo: bool
    fitzpatrick: int
    sites: tuple[str, ...]
    photos: int
    copies: tuple[Copy, ...]


def synth(options: SynthOptions) -> Report:
    """Draw a set; see `SynthOptions`. Raises InputError before anything is written."""
    out = Path(options.out)
    written = [MARK, *(json_object(out / MARK, "files") or MARK_OF_OLD)]
    require_new_folder(out, options.overwrite, written, [options.labels])
    if not SIZES[0] <= options.image_size <= SIZES[1]:
        raise InputError(f"--image-size {options.image_size} cannot be drawn: give {SIZES[0]} to {SIZES[1]}")
    labels, splits = _patients(options)
    photos = draw_photo_counts(labels["country"], np.random.default_rng([options.seed, PHOTOS]))
    extra, extra_splits, copies = plan_copies(
        labels, photos, splits, options.duplicates, np.random.default_rng([options.seed, COPIES])
    )
    sitters = _sitters(labels, photos, copies)
    labels, splits = pd.concat([labels, extra]), pd.concat([splits, extra_splits])
    with atomic_folder(out) as folder:
        _draw_all(folder / "images", sitters, options)
        truth = pd.DataFrame(copies, columns=["subject_id", "duplicate_subject_id", "kind", "file", "duplicate_file"])
        for name, table in (("label", labels), ("PASSION_split", splits), ("truth", truth)):
            write_csv(folder / f"{name}.csv", table)
        mark = _mark(options, labels, int(photos.sum()), copies, folder)
        write_json(folder / MARK, mark)
    return _report(out, mark, labels, splits, copies)


def _patients(options: SynthOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Label rows and split rows, invented or taken from ``--labels``."""
    if not options.labels:
        labels = invent_patients(options.patients or DEFAULT_PATIENTS, np.random.default_rng([options.seed, PATIENTS]))
        return labels, draw_splits(labels, options.seed)
    if options.patients:
        raise InputError("--patients and --labels exclude each other: the table says how many patients there are")
    path = Path(options.labels)
    if not path.is_file():
        raise InputError(f"{path} is not a file: give PASSION's label.csv with --labels")
    labels = read_patients(path)
    official = _official_split(options)
    if official:
        return labels, read_table(official, ("subject_id", "Split"))[["subject_id", "Split"]]
    return labels, draw_splits(labels, options.seed)


def _official_split(options: SynthOptions) -> Path | None:
    """``PASSION_split.csv`` beside the table of ``--labels``."""
    path = Path(options.labels).with_name("PASSION_split.csv") if options.labels else None
    return path if path and path.is_file() else None


def _sitters(labels: pd.DataFrame, photos: np.ndarray, copies: list[Copy]) -> list[Sitter]:
    of_subject: dict[str, list[Copy]] = {}
    for copy in copies:
        of_subject.setdefault(copy.original, []).append(copy)
    return [
        Sitter(
            number,
            row.subject_id,
            row.conditions_PASSION,
            float(row.impetig) == 1,
            fitzpatrick(row.fitzpatrick) or 4,
            tuple(site.strip() for site in row.body_loc.split(";") if site.strip()),
            int(photos[number]),
            tuple(of_subject.get(row.subject_id, ())),
        )
        for number, row in enumerate(labels.itertuples())
    ]


def _draw_all(images: Path, sitters: list[Sitter], options: SynthOptions) -> None:
    images.mkdir()
    draw = functools.partial(_draw_patient, folder=images, longer_side=options.image_size, seed=options.seed)
    total = sum(sitter.photos + len(sitter.copies) for sitter in sitters)
    bar = tqdm(total=total, desc="draw", unit="image", disable=None)
    with process_map(options.workers) as in_processes, bar:
        for drawn in in_processes(draw, sitters):
            bar.update(drawn)


def _draw_patient(sitter: Sitter, folder: Path, longer_side: int, seed: int) -> int:
    """Write all photos of one patient and their planted copies; returns their number."""
    random = np.random.default_rng([seed, PHOTOS, 1 + sitter.number])
    person = draw_person(sitter.condition, sitter.impetigo, sitter.fitzpatrick, sitter.sites, random)
    jpegs = {}
    for photo in range(sitter.photos):
        view = np.random.default_rng([seed, PHOTOS, 1 + sitter.number, 1 + photo])
        name = photo_name(sitter.subject_id, photo)
        jpegs[name] = encode_photo(draw_photo(person, longer_side, view), int(view.integers(60, 96)))
        (folder / name).write_bytes(jpegs[name])
    for number, copy in enumerate(sitter.copies):
        again = np.random.default_rng([seed, COPIES, 1 + sitter.number, 1 + number])
        (folder / copy.duplicate_file).write_bytes(copy_photo(jpegs[copy.original_file], copy.kind, again))
    return sitter.photos + len(sitter.copies)


def _mark(options: SynthOptions, labels: pd.DataFrame, photos: int, copies: list[Copy], folder: Path) -> dict[str, Any]:
    """Content of ``SYNTHETIC.json``, by which `dermssl prepare` knows the set and each of its files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "version": dermssl.__version__,
        "seed": options.seed,
        "image_size": options.image_size,
        "patients": len(labels),
        "images": photos + len(copies),
        "duplicates": len({copy.duplicate for copy in copies}),
        "labels": "real" if options.labels else "invented",
        "split": "official" if _official_split(options) else "drawn",
        "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
    }


def _report(out: Path, mark: dict, labels: pd.DataFrame, splits: pd.DataFrame, copies: list[Copy]) -> Report:
    conditions = labels["conditions_PASSION"].value_counts().sort_index()
    sides = splits["Split"].value_counts()
    text = [
        f"SYNTHETIC stand-in for PASSION: {mark['images']} images of {mark['patients']} patients -> {out}",
        "  patients: " + ", ".join(f"{name} {number}" for name, number in conditions.items()),
        "  split (patients): " + ", ".join(f"{name} {number}" for name, number in sides.items()),
        f"  planted duplicates: {mark['duplicates']} patients, {len(copies)} images (truth.csv)",
        f"  next: dermssl prepare --source passion --root {out} --out data/synthetic",
    ]
    if mark["labels"] == "real":
        text.insert(1, "  the label rows are real: PASSION's licence applies to them; the pictures show no person")
    data = {key: value for key, value in mark.items() if key != "files"}
    return Report("\n".join(text), data | {"out": str(out), "conditions": conditions.to_dict()})
