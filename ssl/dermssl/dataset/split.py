"""``dermssl split``: writes a new split, or folds of everything but test, into a dataset folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermssl.commandline import Report
from dermssl.dataset.dataset import Dataset, open_dataset
from dermssl.dataset.manifest import check, with_split_origin
from dermssl.dataset.options import SplitOptions
from dermssl.dataset.splits import SPLITS, check_split, draw_split, group_folds, join_copies
from dermssl.errors import InputError, counted, did_you_mean, shortened
from dermssl.files import read_parquet, sha256_file, write_json, write_parquet
from dermssl.paths import require_file

NAMES = {2: ("train", "test"), 3: SPLITS}
REPAIRED = "split_repaired"
MOST_STRATA = 100
IDS = ("image_id", "file", "patient_id", "lesion_id", "group_id", "case_id", "sha256", "pixel_sha256", "phash")


def split(options: SplitOptions) -> Report:
    """Draw or apply a split and record it; see `SplitOptions`. A crash leaves the old split."""
    dataset = open_dataset(options.folder)
    _check_options(options, dataset)
    frame = dataset.frame()
    groups, strata = frame["group_id"], _strata(frame, options, dataset)
    unit = f"{dataset.info['group'] if options.by == 'group' else options.by} (seed {options.seed})"
    if options.together:
        groups, source = _leak_groups(Path(options.together), dataset, frame)
        unit += f", leak groups together ({source})"
    groups = join_copies(groups, frame["pixel_sha256"])
    table, info = dataset.table, dict(dataset.info)
    if options.fractions or options.apply:
        if options.apply:
            frame["split"], info["split"] = _repaired_split(Path(options.apply), dataset, frame)
        else:
            fractions = dict(zip(NAMES[len(options.fractions)], options.fractions, strict=True))
            frame["split"] = draw_split(groups, strata, fractions, options.seed)
            info["split"] = f"drawn by {unit}"
        table = _with_column(table, "split", pa.array(frame["split"], pa.string(), from_pandas=True))
        # Folds of the old split may hold images that now lie in test.
        info.pop("folds", None)
        table = table.drop_columns("fold") if "fold" in table.column_names else table
    if options.folds:
        tested = frame["group_id"].isin(frame["group_id"][frame["split"] == "test"])  # some images may lack the split
        frame["fold"] = draw_folds(frame["split"].mask(tested, "test"), groups, strata, options.folds, options.seed)
        table = _with_column(table, "fold", pa.array(frame["fold"], pa.int64(), from_pandas=True))
        info["folds"] = f"{options.folds} by {unit}"
    check(table)
    # After a kill between the two files, the origin in the manifest's metadata still fits its split.
    write_parquet(dataset.folder / "manifest.parquet", with_split_origin(table, info))
    write_json(dataset.folder / "dataset.json", info)
    return _report(dataset, info, frame.assign(stratum=strata), options)


def _check_options(options: SplitOptions, dataset: Dataset) -> None:
    if not (options.fractions or options.folds or options.apply):
        raise InputError("nothing to do: give --fractions (0.8 0.2), --folds, both, or --apply with a leaks folder")
    if options.fractions and options.apply:
        raise InputError("--fractions draws a split and --apply applies a repaired one: give one of them")
    if options.together and not (options.fractions or options.folds):
        raise InputError("--together is for a draw: give --fractions or --folds too, or give --apply alone")
    if options.fractions and len(options.fractions) not in NAMES:
        raise InputError(f"--fractions takes two numbers (train, test) or three, not {len(options.fractions)}")
    if options.folds == 1:
        raise InputError("--folds 1 leaves nothing to validate on: give 2 or more")
    if options.fractions and "official" in dataset.info["split"] and not options.replace_official:
        raise InputError(f"{dataset.folder} has an official split: add --replace-official to draw another over it")
    own = dataset.info["group"]
    if options.by == "patient" and not dataset.table["patient_id"].drop_null():
        raise InputError(f"{dataset.folder} has no patients: use --by group, which keeps each {own} together")
    if options.by == "lesion" and own != "lesion":
        raise InputError(f"{dataset.folder}: --by lesion would divide its {own}s: use --by group")


def _read_audit(given: Path, name: str, columns: Sequence[str]) -> tuple[Path, pd.DataFrame]:
    """The CSV ``name`` of a leaks or audit folder, or the file ``given``; all values are str."""
    leaks = given / "leaks" if (given / "audit.json").is_file() else given  # an audit folder holds a leaks folder
    path = require_file(leaks / name if given.is_dir() else given, "dermeval leaks")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a readable CSV ({shortened(error, 200)})") from None
    for column in columns:
        if column not in table:
            raise InputError(f"{path} has no column '{column}': make it again with `dermeval leaks`")
    return path, table


def _check_audited(path: Path, dataset: Dataset) -> None:
    """Raise InputError unless the audit that wrote the CSV ``path`` read all images with the pixels that they have."""
    images = path.parent / "images.parquet"
    audited = read_parquet(images, "dermeval leaks", ["image_id", "pixel_sha256"]).to_pandas()
    pixels = audited.set_index("image_id")["pixel_sha256"].reindex(dataset.table["image_id"].to_pylist())
    for wrong, reason in (
        (pixels.isna().to_numpy(), "was made without {}"),
        (pixels.to_numpy() != dataset.table["pixel_sha256"].to_numpy(), "was made from other pixels: {} has changed"),
    ):
        if wrong.any():
            raise InputError(f"{path} {reason.format(pixels.index[wrong][0])}: {_again(dataset)}")


def _again(dataset: Dataset) -> str:
    return f"run `dermeval leaks` on {dataset.folder} again"


def _leak_groups(given: Path, dataset: Dataset, frame: pd.DataFrame) -> tuple[pd.Series, str]:
    """The leak group of each row, or its own group if it is in none, and the origin of the leak groups."""
    path, table = _read_audit(given, "groups.csv", ("leak_group", "group_id", "dataset"))
    _check_audited(path, dataset)
    own = table[table["dataset"] == dataset.info["name"]].set_index("group_id")["leak_group"]
    unknown = own.index[~own.index.isin(frame["group_id"])]
    if len(unknown):
        again = f"{_again(dataset)}, without --every-image"
        raise InputError(f"{path}: {unknown[0]} is no group of {dataset.folder}: {again}")
    leaks = own.groupby(level=0).first().to_dict()
    together = frame["group_id"].map(lambda group: f"leak group {leaks[group]}" if group in leaks else group)
    return together, f"{path.name} {sha256_file(path)[:12]}"


def _repaired_split(given: Path, dataset: Dataset, frame: pd.DataFrame) -> tuple[pd.Series, str]:
    """The split of ``split_repaired.csv`` in the order of ``frame``, and its origin.

    The table may hold further data sets that were audited with this one.
    Raises InputError: it was made from other images, pixels or another split, or divides a group.
    """
    path, table = _read_audit(given, f"{REPAIRED}.csv", ("image_id", "split", REPAIRED))
    doubled = table["image_id"][table["image_id"].duplicated()]
    if len(doubled):
        raise InputError(f"{path}: {doubled.iloc[0]} stands in two rows")
    rows = table.set_index("image_id").reindex(frame["image_id"])
    missing = rows.index[rows[REPAIRED].isna()]
    if len(missing):
        images = counted(len(missing), "image")
        raise InputError(f"{path} lacks {images} of {dataset.folder}, such as {missing[0]}: {_again(dataset)}")
    before = frame["split"].fillna("").to_numpy()
    changed = rows.index[rows["split"].to_numpy() != before]
    if len(changed):
        there = f"{changed[0]} is '{rows['split'][changed[0]]}' there"
        raise InputError(f"{path} was made from another split: {there}: {_again(dataset)}")
    if (path.parent / "images.parquet").is_file():
        _check_audited(path, dataset)
    wrong = sorted(set(rows[REPAIRED]) - {*SPLITS, ""})
    if wrong:
        raise InputError(f"{path}: {REPAIRED} holds '{wrong[0]}': it must be {', '.join(SPLITS)} or empty")
    repaired = pd.Series(rows[REPAIRED].to_numpy(), index=frame.index, dtype=object)
    repaired = repaired.where(repaired != "", None)
    check_split(frame.assign(split=repaired), str(path))
    moved = int((rows[REPAIRED].to_numpy() != before).sum())
    how = f"{path.name} {sha256_file(path)[:12]}, {counted(moved, 'image')} moved; was {dataset.info['split']}"
    return repaired, f"repaired by dermeval leaks ({how})"


def _strata(frame: pd.DataFrame, options: SplitOptions, dataset: Dataset) -> pd.Series:
    """The joined values of the columns to stratify by, ``(N,)`` of str."""
    columns = [name for given in options.stratify for name in given.split(",")] or [
        target.column for target in list(dataset.targets.values())[:1]
    ]
    for name in columns:
        if name not in frame:
            raise InputError(f"--stratify {name}: no such column; {did_you_mean(name, map(str, frame.columns))}")
        values = frame[name].map(str).nunique()
        if values > MOST_STRATA or name in IDS:
            raise InputError(f"--stratify {name}: {values} different values are too many: give a column with fewer")
    parts = [frame[name].astype(object).where(frame[name].notna(), None).map(str) for name in columns]
    return pd.Series(list(map(" / ".join, zip(*parts, strict=True))) if parts else "", index=frame.index, dtype=object)


def draw_folds(sides: pd.Series, groups: pd.Series, strata: pd.Series, folds: int, seed: int) -> np.ndarray:
    """The fold of each row ``(N,)``, 0 to ``folds`` - 1, NaN in test, drawn by groups as in the PASSION protocol."""
    rows = np.flatnonzero((sides != "test").to_numpy())
    if groups.iloc[rows].nunique() < folds:
        raise InputError(f"--folds {folds}: only {groups.iloc[rows].nunique()} groups lie outside test: give fewer")
    codes = pd.factorize(strata.iloc[rows], sort=True)[0]
    drawn = np.full(len(sides), np.nan)
    try:
        for number, (_, held_out) in enumerate(group_folds(codes, groups.iloc[rows].to_numpy(), folds, seed)):
            drawn[rows[held_out]] = number
    except ValueError as error:
        raise InputError(f"--folds {folds}: {shortened(error)}: stratify by a column with fewer values") from None
    return drawn


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), table.schema.field(name).with_type(values.type), values)
    return table.append_column(name, values)


def _report(dataset: Dataset, info: dict[str, Any], frame: pd.DataFrame, options: SplitOptions) -> Report:
    text = [str(dataset.folder)]
    data: dict[str, Any] = {"split": info["split"], "folds": info.get("folds")}
    for name, drawn in (("split", options.fractions or options.apply), ("fold", options.folds)):
        if drawn:
            counted = _count(frame, name)
            if not len(counted):  # no image has a split
                continue
            units = f"{dataset.info['group']}s"
            shown = counted.rename(columns={"groups": units}) if units != "images" else counted.drop(columns="groups")
            text += [f"  {name}: {data['split' if name == 'split' else 'folds']}", shown.to_string()]
            data[f"{name}_counts"] = counted.to_dict(orient="index")
    return Report("\n".join(text), data)


def _count(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Groups and images per split or fold, and images per stratum if there are at most 12 strata."""
    sides = frame[name].map(lambda value: value if isinstance(value, str) else f"{value:g}", na_action="ignore")
    grouped = frame.groupby(sides)
    counted = pd.DataFrame({"groups": grouped["group_id"].nunique(), "images": grouped.size()})
    if frame["stratum"].nunique() <= 12:
        classes = pd.crosstab(sides, frame["stratum"])
        missing = classes.pop("None") if "None" in classes else None
        counted = counted.join(classes if missing is None else classes.assign(**{"(missing)": missing}))
    return counted.sort_index(key=lambda found: [SPLITS.index(side) if side in SPLITS else int(side) for side in found])
