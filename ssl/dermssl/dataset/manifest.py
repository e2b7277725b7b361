"""The manifest: one row per image, with a schema that fixes the type of each column, and checks of its values.

`FIXED` has the fixed columns. A source may add free columns (labels, further metadata), and `split` adds ``fold``. A
free column is text unless all its values are numbers or booleans. A missing value is null, never "", -1 or "unknown".

``width`` and ``height`` are of the upright raw image, ``stored_width`` and ``stored_height`` of the stored one.
``sha256`` is of the file. ``pixel_sha256`` is of "WIDTHxHEIGHT:" and the decoded, upright 8-bit sRGB pixels. A JPEG
with a short side of 1,024 or more is hashed as libjpeg decodes it at the smallest scale (1/2, 1/4, 1/8) that leaves a
short side of 512. So the hash depends on the file alone, and not on its metadata. A lossless change of format keeps the
hash of smaller images. ``phash`` is of the stored image and its flips and quarter turns.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermssl.dataset.splits import SPLITS
from dermssl.errors import InputError
from dermssl.files import read_parquet
from dermssl.paths import inside

SCHEMA_VERSION = 2

FIXED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        ("patient_id", pa.string()),
        ("lesion_id", pa.string()),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        ("split", pa.string()),
        ("age", pa.float32()),
        ("sex", pa.string()),
        ("country", pa.string()),
        ("body_site", pa.list_(pa.string())),
        ("modality", pa.string()),
        ("fitzpatrick", pa.int8()),
        ("skin_tone", pa.string()),
        ("skin_tone_scale", pa.string()),
        ("tone_group", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("stored_width", pa.int32(), nullable=False),
        pa.field("stored_height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("pixel_sha256", pa.string(), nullable=False),
        pa.field("phash", pa.list_(pa.uint64(), 8), nullable=False),
    ]
)
MEASURED = ("width", "height", "stored_width", "stored_height", "sha256", "pixel_sha256", "phash")
"""The fixed columns that come from the image files. All others come from the source's tables."""
ALLOWED = {
    "split": set(SPLITS),
    "sex": {"female", "male"},
    "modality": {"clinical", "dermoscopic"},
    "tone_group": {"I-II", "III-IV", "V-VI"},
}
RANGES = {"fitzpatrick": (1, 6), "age": (0, 150)} | dict.fromkeys(
    ("width", "height", "stored_width", "stored_height"), (1, 2**31 - 1)
)
TONE_GROUPS = {1: "I-II", 2: "I-II", 3: "III-IV", 4: "III-IV", 5: "V-VI", 6: "V-VI"}


def to_table(frame: pd.DataFrame, measured: pa.Table | None = None) -> pa.Table:
    """``frame``, with one row per image, as an Arrow table with the manifest's schema; absent columns are null.

    ``measured`` has ``file`` and the measured columns of the same images; None if ``frame`` has them.
    Raises InputError: an id is missing or occurs twice, or a fixed column holds a value outside its range.
    """
    if measured is not None and measured["file"] != pa.chunked_array([frame["file"]], pa.string()):
        raise RuntimeError("measurements of other files than the manifest's")
    fields, columns = list(FIXED), []
    for field in FIXED:
        if measured is not None and field.name in MEASURED:
            columns.append(measured[field.name].cast(field.type))
        else:
            values = frame[field.name] if field.name in frame else [None] * len(frame)
            columns.append(pa.array(values, type=field.type, from_pandas=True))
    for name in (name for name in frame.columns if name not in FIXED.names):
        columns.append(_free_column(frame[name]))
        fields.append(pa.field(name, columns[-1].type))
    table = pa.table(columns, schema=pa.schema(fields))
    check(table)
    return table


def _free_column(values: pd.Series) -> pa.Array:
    kinds = set(map(type, values.dropna()))
    if kinds <= {bool, np.bool_}:
        kind = pa.bool_() if kinds else pa.string()
    elif kinds <= {int, np.int64}:
        kind = pa.int64()
    elif kinds <= {int, np.int64, float, np.float64}:
        kind = pa.float64()
    else:
        values, kind = values.map(str, na_action="ignore"), pa.string()
    return pa.array(values, type=kind, from_pandas=True)


def read_manifest(folder: Path, maker: str) -> pa.Table:
    """Read and `check` the manifest in a folder that the command ``maker`` wrote. Raises InputError naming the file."""
    path = inside(folder, "manifest.parquet")
    table = read_parquet(path, maker, FIXED.names)
    try:
        check(table)
    except InputError as error:
        raise InputError(f"{path}: {error}: run `{maker}` again") from None
    return table


def check(table: pa.Table) -> None:
    """Raise InputError unless the fixed columns have their types, ids are unique and values are in range."""
    for field in FIXED:
        kind = table.schema.field(field.name).type
        if kind != field.type:
            raise InputError(f"manifest column {field.name} is of type {kind}; it must be {field.type}")
    ids = table["image_id"].to_pandas()
    if ids.duplicated().any():
        raise InputError(f"image_id {ids[ids.duplicated()].iloc[0]} occurs twice in the manifest")
    for field in FIXED:
        if not field.nullable and table[field.name].null_count:
            row = ids[table[field.name].is_null().to_numpy()].iloc[0]
            raise InputError(f"{row} has no {field.name} in the manifest: every image needs one")
    for name, allowed in ALLOWED.items():
        wrong = set(table[name].drop_null().unique().to_pylist()) - allowed
        if wrong:
            raise InputError(f"manifest column {name} holds {sorted(wrong)}: it must be null or of {sorted(allowed)}")
    for name, (low, high) in RANGES.items():
        values = table[name].drop_null().to_numpy()
        if not ((values >= low) & (values <= high)).all():
            raise InputError(f"manifest column {name} must be {low} to {high} or null")
    for name in ("image_id", "group_id", "case_id"):
        if "" in table[name].unique().to_pylist():
            raise InputError(f"manifest column {name} holds an empty text: it must be an id")


ORIGIN_KEY = b"dermssl"


def with_split_origin(table: pa.Table, info: dict[str, Any]) -> pa.Table:
    """``table`` with the origin of its split and folds (from ``dataset.json``) in its metadata."""
    origin = json.dumps({"split": info["split"], "folds": info.get("folds")})
    return table.replace_schema_metadata((table.schema.metadata or {}) | {ORIGIN_KEY: origin})


def read_split_origin(table: pa.Table) -> dict[str, str]:
    """The entries ``split`` and ``folds`` that `with_split_origin` wrote, as far as the table has them."""
    try:
        origin = json.loads((table.schema.metadata or {}).get(ORIGIN_KEY, b"{}"))
        return {name: origin[name] for name in ("split", "folds") if isinstance(origin.get(name), str)}
    except (ValueError, AttributeError, RecursionError):
        return {}
