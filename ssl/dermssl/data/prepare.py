"""``dermssl prepare``: a raw data set becomes a dataset folder, each image decoded exactly once.

Work goes in shards. A finished shard is kept in ``.<out>.work`` beside the output, so a killed run picks up where
it was; the folder gets its final name only when everything is in it.
"""

import functools
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dermssl import licences
from dermssl.commandline import Report
from dermssl.data import hashes, manifest, splits, store
from dermssl.data.decode import DecodeError, is_upright, open_image, read_bytes, upright_rgb
from dermssl.data.options import PrepareOptions
from dermssl.data.sources import get_source
from dermssl.data.sources.source import Problem, Source
from dermssl.data.workers import process_map
from dermssl.errors import InputError
from dermssl.files import (
    publish_folder,
    read_json,
    read_parquet,
    require_new_folder,
    write_json,
    write_parquet,
    write_text,
)

SHARD_ROWS = 1024
SYNTHETIC_MARK = "SYNTHETIC.json"


def prepare(options: PrepareOptions) -> Report:
    """Prepare one data set; see `PrepareOptions`. Raises InputError before anything is written."""
    source, root, out = get_source(options.source), Path(options.root), Path(options.out)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: give the raw data set with --root")
    require_new_folder(out, options.overwrite)
    mark = read_json(root / SYNTHETIC_MARK, "dermssl synth") if (root / SYNTHETIC_MARK).exists() else None
    name = options.name or (f"synthetic_{source.name}" if mark else source.name)
    records = source.read(root)
    if records.frame.empty:
        raise InputError(f"{root} holds no image that the source '{source.name}' can use: expected {source.layout}")
    if options.strict and records.problems:
        raise InputError(_strict_message(records.problems))
    work = _work_folder(out, root, records.frame, options)
    frame, problems = _decode_all(work, root, records.frame, options)
    problems = records.problems + problems
    if options.strict and problems:
        raise InputError(_strict_message(problems))
    if frame.empty:
        shutil.rmtree(work)
        raise InputError(f"{root}: none of the {len(records.frame)} images could be decoded")
    frame = _identify(frame, name, source)
    targets = source.targets if records.targets is None else records.targets
    frame = _complete(frame, source, targets, options)
    splits.check_split(frame, str(root))
    table = manifest.to_table(frame)
    problems += _label_conflicts(frame, targets)
    info = _describe_folder(table, name, source, targets, mark, options)
    _write_folder(work, out, table, info, problems)
    return _report(out, table, info, problems)


def _strict_message(problems: list[Problem]) -> str:
    first = problems[0]
    return f"--strict: {len(problems)} problems, the first: {first.file}: {first.problem}"


def _work_folder(out: Path, root: Path, frame: pd.DataFrame, options: PrepareOptions) -> Path:
    """The folder of finished shards; emptied when it belongs to another root, file list or size."""
    listing = json.dumps([str(root.resolve()), options.short_side, frame["file"].tolist()])
    key = {"key": hashlib.sha256(listing.encode()).hexdigest()}
    work = out.with_name(f".{out.name}.work")
    if not (work / "key.json").exists() or read_json(work / "key.json", "dermssl prepare") != key:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / "key.json", key)
    return work


def _decode_all(
    work: Path, root: Path, frame: pd.DataFrame, options: PrepareOptions
) -> tuple[pd.DataFrame, list[Problem]]:
    """Decode every file, shard by shard, and join what was measured to the source's rows."""
    starts = range(0, len(frame), SHARD_ROWS)
    one = functools.partial(decode_one, root=root, short_side=options.short_side)
    with (
        process_map(options.workers) as in_processes,
        tqdm(total=len(frame), desc="decode", unit="image", disable=None) as bar,
    ):
        parts = []
        for number, start in enumerate(starts):
            files = frame["file"].iloc[start : start + SHARD_ROWS].tolist()
            measured = work / f"rows-{number:05d}.parquet"
            if not measured.exists():
                _write_shard(work, number, files, in_processes(one, files), bar)
            else:
                bar.update(len(files))
            parts.append(read_parquet(measured, "dermssl prepare").to_pandas())
    rows = pd.concat(parts, ignore_index=True)
    bad = rows[rows["problem"].notna()]
    problems = [Problem(file, problem, "left out") for file, problem in zip(bad["file"], bad["problem"], strict=True)]
    good = rows[rows["problem"].isna()].drop(columns="problem")
    return good.merge(frame, on="file", how="left", validate="one_to_one"), problems


def _write_shard(work: Path, number: int, files: list[str], results: Iterator, bar: tqdm) -> None:
    rows, jpegs = [], []
    for file, (measured, jpeg) in zip(files, results, strict=True):
        rows.append({"file": file} | measured)
        if jpeg is not None:
            jpegs.append(jpeg)
        bar.update()
    store.write_shard(work / store.shard_name(number), jpegs)
    write_parquet(work / f"rows-{number:05d}.parquet", pa.Table.from_pylist(rows, schema=_ROW_SCHEMA))


_ROW_SCHEMA = pa.schema(
    [("file", pa.string()), ("problem", pa.string())]
    + [
        manifest.FIXED.field(name).with_nullable(True)
        for name in ("width", "height", "stored_width", "stored_height", "sha256", "pixel_sha256", "phash")
    ]
)


def decode_one(file: str, root: Path, short_side: int) -> tuple[dict[str, Any], bytes | None]:
    """Measurements of one file and its stored JPEG; on failure ``{"problem": ...}`` and None."""
    try:
        data = read_bytes(root / file, root)
        original = open_image(data)
        image = upright_rgb(original)
    except DecodeError as error:
        return {"problem": str(error)}, None
    small = store.shrink(image, short_side)
    kept = original.format == "JPEG" and original.mode == "RGB" and small is image and is_upright(original)
    measured = {
        "width": original.width,
        "height": original.height,
        "stored_width": small.width,
        "stored_height": small.height,
        "sha256": hashes.file_hash(data),
        "pixel_sha256": hashes.pixel_hash(image),
        "phash": hashes.perceptual_hashes(small),
    }
    return measured, store.strip_metadata(data) if kept else store.encode(small)


def _identify(frame: pd.DataFrame, name: str, source: Source) -> pd.DataFrame:
    """Put the data set's name before every id and fill ``group_id`` and ``case_id``."""
    frame = frame.copy()
    frame["image_id"] = name + "/" + frame["file"].map(lambda file: Path(file).with_suffix("").as_posix())
    doubled = frame["image_id"].duplicated(keep=False)
    frame.loc[doubled, "image_id"] = name + "/" + frame.loc[doubled, "file"]
    frame["dataset"] = name
    for column in ("patient_id", "lesion_id", "case_id", "group_id"):
        raw = frame[column] if column in frame else pd.Series([None] * len(frame), index=frame.index, dtype=object)
        frame[column] = [f"{name}/{value}" if isinstance(value, str) else None for value in raw]
    units = {"patient": "patient_id", "lesion": "lesion_id", "case": "case_id", "image": "image_id"}
    frame["group_id"] = _first_known(frame, "group_id", units[source.group], "patient_id", "lesion_id", "image_id")
    frame["case_id"] = _first_known(frame, "case_id", units[source.case], "lesion_id", "image_id")
    return frame


def _first_known(frame: pd.DataFrame, *columns: str) -> pd.Series:
    return functools.reduce(lambda left, name: left.where(left.notna(), frame[name]), columns[1:], frame[columns[0]])


def _complete(frame: pd.DataFrame, source: Source, targets: dict, options: PrepareOptions) -> pd.DataFrame:
    """Add tone groups, and a patient-grouped split where the set has labels but none of its own."""
    if "fitzpatrick" in frame and "tone_group" not in frame:
        frame["tone_group"] = frame["fitzpatrick"].map(manifest.TONE_GROUPS)
        known = frame["fitzpatrick"].notna()
        frame["skin_tone"] = frame["fitzpatrick"].where(known).map(lambda t: str(int(t)), na_action="ignore")
        frame["skin_tone_scale"] = known.map({True: "fitzpatrick", False: None})
    unsplit = "split" not in frame or frame["split"].isna().all()
    if targets and unsplit and options.test_fraction > 0:
        fractions = {"train": 1 - options.test_fraction, "test": options.test_fraction}
        stratum = frame[next(iter(targets.values())).column]
        frame["split"] = splits.draw_split(frame["group_id"], stratum, fractions, options.seed)
        frame.attrs["split"] = f"drawn by {source.group} (seed {options.seed})"
    else:
        frame.attrs["split"] = "official" if not unsplit else "none"
    return frame


def _label_conflicts(frame: pd.DataFrame, targets: dict) -> list[Problem]:
    """Cases with two labels: kept for image-level work, out of case-level scores."""
    problems = []
    for name, target in targets.items():
        if target.kind == "multilabel":
            continue
        labels = frame.groupby("case_id")[target.column].nunique()
        problems += [
            Problem(f"case {case}", f"images of one case have different labels of '{name}'", "out of case-level scores")
            for case in labels[labels > 1].index
        ]
    return problems


def _describe_folder(
    table: pa.Table, name: str, source: Source, targets: dict, mark: dict | None, options: PrepareOptions
) -> dict[str, Any]:
    licence_id, attribution = _licence(source, mark)
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "name": name,
        "source": source.name,
        "title": f"Synthetic stand-in for {source.title}" if mark else source.title,
        "synthetic": bool(mark),
        "licence": licences.notice(name, licence_id, attribution, bool(mark)),
        "group": source.group,
        "case": source.case,
        "patient_key": source.patient_key,
        "short_side": options.short_side,
        "counts": count(table),
        "targets": {key: target.to_json() for key, target in targets.items()},
    }


def _licence(source: Source, mark: dict | None) -> tuple[str, str]:
    """Licence id and attribution; drawn pictures are free, but real label rows keep their own licence."""
    if not mark:
        return source.licence, source.citation
    drawn = f"Pictures made by dermssl {mark['version']}, no person is shown."
    if mark["labels"] == "real":
        return source.licence, f"{drawn} Label rows: {source.citation}"
    return "CC0-1.0", drawn


def count(table: pa.Table) -> dict[str, int]:
    """Numbers of images, patients, lesions, groups and cases of a manifest."""
    counted = {"images": table.num_rows}
    for column in ("patient_id", "lesion_id", "group_id", "case_id"):
        counted[column.removesuffix("_id") + "s"] = len(table[column].drop_null().unique())
    return counted


def _write_folder(work: Path, out: Path, table: pa.Table, info: dict, problems: list[Problem]) -> None:
    write_parquet(work / "manifest.parquet", table)
    write_json(work / "dataset.json", info)
    frame = pd.DataFrame(problems, columns=list(Problem._fields))
    write_text(work / "problems.csv", frame.to_csv(index=False, lineterminator="\n"))
    for leftover in [*work.glob("rows-*.parquet"), work / "key.json"]:
        leftover.unlink()
    publish_folder(work, out)


def _report(out: Path, table: pa.Table, info: dict, problems: list[Problem]) -> Report:
    counts, kinds = info["counts"], Counter((p.problem, p.action) for p in problems)
    split = Counter(value or "none" for value in table["split"].to_pylist())
    text = [
        f"{info['name']}: {counts['images']} images of {counts['groups']} {info['group']}s -> {out}",
        "  split (images): " + ", ".join(f"{name} {split[name]}" for name in sorted(split)),
        "  targets: " + (", ".join(info["targets"]) or "none"),
        *[f"  problem: {number} x {problem} ({action})" for (problem, action), number in kinds.most_common()],
        *["  " + line for line in licences.lines([info["licence"]])],
    ]
    if not info["patient_key"]:
        text.insert(1, "  no patient key: patient leakage cannot be ruled out")
    data = info | {"out": str(out), "splits": dict(split), "problems": [p._asdict() for p in problems]}
    return Report("\n".join(text), data)
