"""``dermssl prepare``: reads a raw data set, decodes each image once, and writes a dataset folder."""

import dataclasses
import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from dermssl import licences
from dermssl.atomic import publish_folder
from dermssl.commandline import Report
from dermssl.dataset import manifest, splits, store
from dermssl.errors import InputError, counted, did_you_mean
from dermssl.files import read_json, sha256_file, write_csv, write_json, write_parquet
from dermssl.paths import json_object, require_name, require_new_folder
from dermssl.prepare.identity import check_labels, complete, copy_conflicts, identify, label_conflicts
from dermssl.prepare.options import PrepareOptions
from dermssl.prepare.shards import PROGRESS_FILES, decode_all, work_folder
from dermssl.prepare.source import Problem, Source, count_problems
from dermssl.prepare.sources import get_source, known_overlaps, read_source

SYNTHETIC_MARK = "SYNTHETIC.json"
WRITTEN = ("dataset.json", "manifest.parquet", "problems.csv", "images-*.arrow", *PROGRESS_FILES)
"""The files of a dataset folder."""


class SyntheticMark(BaseModel):
    """What ``SYNTHETIC.json`` must hold."""

    version: str
    labels: Literal["real", "invented"]
    split: Literal["official", "drawn"]
    files: dict[str, str]
    """SHA-256 of each file by its path."""


def prepare(options: PrepareOptions) -> Report:
    """Prepare one data set; see `PrepareOptions`. Raises InputError for bad input, then writes no dataset folder."""
    source, root, out = get_source(options.source), Path(options.root), Path(options.out).resolve()
    follow = Path(options.follow) if options.follow else None
    for option, folder in (("--root", root), ("--follow", follow)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{option} {folder} is not a folder: give an existing one")
    require_new_folder(out, options.overwrite, WRITTEN, [root, options.follow], key="schema_version")
    earlier = json_object(out / "dataset.json")
    drawn = (root / SYNTHETIC_MARK).exists()
    mark = read_json(root / SYNTHETIC_MARK, "dermssl synth", SyntheticMark) if drawn else None
    name = options.name or (f"synthetic_{source.name}" if mark else source.name)
    require_name(name, "--name")
    found = read_source(source, root, follow)
    if found.frame.empty:
        reasons = "; ".join(count_problems(found.problems)) or "there are no image files"
        none = f"{root} holds no image that the source '{source.name}' can use"
        raise InputError(f"{none}: expected {source.layout}. Found: {reasons}")
    source, targets = _with_licence(found.source or source, options, drawn), found.targets
    rows, conflicts = identify(found.frame, name, source)
    splits.check_split(rows, str(root))
    check_labels(rows, targets, root)
    _check_strict(found.problems + conflicts + label_conflicts(rows, targets), options)
    files = rows["file"].tolist()
    if mark:
        _check_mark(root, mark, files)
    work = work_folder(out, root, files, options.short_side)
    measured, decoded, damaged = decode_all(work, root, files, options.short_side, options.workers, follow)
    if not decoded.any():
        shutil.rmtree(work)
        reasons = "; ".join(count_problems(found.problems + damaged))
        raise InputError(f"{root}: none of {counted(len(rows), 'image')} could be decoded: {reasons}")
    pixels = measured.select(["file", "pixel_sha256"]).to_pandas().set_index("file")["pixel_sha256"]
    rows, conflicts = identify(found.frame[decoded], name, source)  # damaged files, which may all be equal, join nobody
    frame, split = complete(rows, pixels, source, targets, options)
    problems = found.problems + conflicts + label_conflicts(frame, targets) + damaged + copy_conflicts(frame, pixels)
    _check_strict(problems, options)
    if mark and split == "official" and mark["split"] != "official":
        split = "drawn by dermssl synth"
    table = manifest.to_table(frame, measured)
    info = _describe_folder(table, name, source, targets, mark, options) | {"split": split, "notes": found.notes}
    info["rows"] = store.ImageStore(work).row_hash(table["image_id"])
    write_parquet(work / "manifest.parquet", table)
    write_json(work / "dataset.json", info)
    write_csv(work / "problems.csv", pd.DataFrame(problems, columns=list(Problem._fields)))
    publish_folder(work, out)
    # Not earlier: after a kill before this line, the next start needs them.
    for file in itertools.chain(*map(out.glob, PROGRESS_FILES)):
        file.unlink()
    names = [name for name in ("split", "folds") if earlier.get(name) not in (None, "none", info.get(name))]
    gone = [f"{name}, {earlier[name]}" for name in names]
    return _report(Path(options.out), table, info, problems, gone)


def _with_licence(source: Source, options: PrepareOptions, drawn: bool) -> Source:
    """``source`` with the licence and citation that are given. InputError for data that have their own."""
    if options.licence not in (None, *licences.LICENCES):
        raise InputError(f"--licence {options.licence}: {did_you_mean(str(options.licence), licences.LICENCES)}")
    known = {"licence": source.licence if source.licence != "unknown" else "", "citation": source.citation}
    given = {name: value for name in known if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if drawn or known[name] not in ("", value):
            own = "they are synthetic" if drawn else f"their {name} is '{known[name]}'"
            raise InputError(f"--{name} is for data that have none, but {own}: leave it out")
    return dataclasses.replace(source, **given)


def _check_mark(root: Path, mark: dict, files: Iterable[str]) -> None:
    """Raise InputError unless the mark of `dermssl synth` has the hash of every table and of all ``files``."""
    tables = [path for path in root.rglob("*") if path.suffix.lower() in (".csv", ".tsv", ".tab")]
    for file in [*(path.relative_to(root).as_posix() for path in tables), *files]:
        if mark["files"].get(file) != sha256_file(root / file):
            raise InputError(
                f"{root / SYNTHETIC_MARK} marks other data as synthetic, not {file}: delete the mark if the data are "
                "real, else run `dermssl synth` again"
            )


def _check_strict(problems: list[Problem], options: PrepareOptions) -> None:
    if options.strict and problems:
        first = problems[0]
        raise InputError(f"--strict: {counted(len(problems), 'problem')}, the first: {first.file}: {first.problem}")


def _describe_folder(
    table: pa.Table, name: str, source: Source, targets: dict, mark: dict | None, options: PrepareOptions
) -> dict[str, Any]:
    licence, attribution = source.licence, source.citation
    title = name if source.name in ("folder", "csv") else source.title
    if mark:  # the drawn images are free, but real label rows keep their licence
        attribution = f"Pictures made by dermssl {mark['version']}, no person is shown."
        if mark["labels"] == "real":
            attribution += f" Label rows: {source.citation}"
        else:
            licence = "CC0-1.0"
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "name": name,
        "source": source.name,
        "title": f"Synthetic data set in the layout of {title}" if mark else title,
        "synthetic": bool(mark),
        "licence": licences.notice(name, licence, attribution, bool(mark)),
        "group": source.group,
        "case": source.case,
        "patient_key": source.patient_key,
        "overlaps": [] if mark else known_overlaps(source.name),
        "short_side": options.short_side,
        "counts": count(table),
        "targets": {key: dataclasses.asdict(target) for key, target in targets.items()},
    }


def count(table: pa.Table) -> dict[str, int]:
    """The numbers of images, patients, lesions, groups and cases in a manifest."""
    ids = {f"{unit}s": table[f"{unit}_id"] for unit in ("patient", "lesion", "group", "case")}
    return {"images": table.num_rows} | {name: len(column.drop_null().unique()) for name, column in ids.items()}


def _report(out: Path, table: pa.Table, info: dict, problems: list[Problem], gone: Sequence[str]) -> Report:
    counts = info["counts"]
    split = Counter(value or "none" for value in table["split"].to_pylist())
    whole = "" if info["group"] == "image" else f" of {counted(counts['groups'], info['group'])}"
    if info["group"] == "patient" and counts["patients"] > counts["groups"]:
        whole = f" of {counted(counts['patients'], 'patient')} in {counted(counts['groups'], 'group')}"
    unknown = table["patient_id"].null_count if info["patient_key"] else 0
    text = [
        f"{info['name']}: {counted(counts['images'], 'image')}{whole} -> {out}",
        f"  split, {info['split']}: "
        + ", ".join(f"{name} {split[name]}" for name in (*splits.SPLITS, "none") if split[name])
        + " images",
        *[f"  replaced: {before}; give `dermssl split` again to have it" for before in gone],
        "  targets: " + (", ".join(info["targets"]) or "none"),
        *[f"  read as: {note}" for note in info["notes"]],
        *[f"  images without a patient id: {unknown}; their group is the case, else the lesion, else the image"]
        * bool(unknown),
        *["  problem: " + line for line in count_problems(problems)],
        *[f"  {out / 'problems.csv'} lists all {counted(len(problems), 'problem')}"] * bool(problems),
        *["  " + line for line in licences.notice_lines([info["licence"]])],
    ]
    if not info["patient_key"]:
        text.insert(1, "  no patient key: patient leakage cannot be ruled out")
    data = info | {"out": str(out), "splits": dict(split), "problems": [p._asdict() for p in problems]}
    return Report("\n".join(text), data)
