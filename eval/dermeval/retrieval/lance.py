"""The index type ``lance``: vectors and manifest in one LanceDB table on the disk, of which a search reads a part.

The codes are RaBitQ codes of one bit per dimension, in cells (Gao & Long 2024); the best are ranked by exact vectors.
Labels and splits are as they were indexed. ``serve``, ``--remove`` and a merge read the whole manifest into memory.
"""

import importlib
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from dermeval.features.embeddings import EmbeddedRows, pooled_rows, require_same_images
from dermeval.retrieval.index_folder import MAKER, SearchIndex, is_address
from dermeval.retrieval.where import comparisons, parse_where, passing_rows, to_sql
from dermssl import neighbours
from dermssl.dataset.dataset import Dataset
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, shortened
from dermssl.paths import inside

TABLE, VECTOR = "images", "dermeval_vector"
LOOKED_UP = ("image_id", "group_id", "sha256", "pixel_sha256")
"""Columns with a scalar index."""
RESERVED = (VECTOR, "_rowid", "_rowaddr", "_distance", "_score")
CELL_ROWS, LEAST_CELLS = 8192, 256
"""Vectors of a cell, and the least number of cells that a search visits; in large tables it visits an eighth of all."""
CANDIDATES, CANDIDATES_PER_HIT = 1000, 20
"""Vectors that the codes select for the exact ranking: at least so many, and at least so many per hit."""
BASE_PATHS = 18
"""Field of the message Manifest (Lance's table.proto) that names other folders with rows of the table."""
MEASURED_QUERIES = 100


class LanceIndex(SearchIndex):
    """An index whose rows stay on the disk; ``lance`` is its table."""

    lance: Any

    def __init__(self, folder: Path | str, info: dict[str, Any], database: Any, table: str = TABLE) -> None:
        with lance_answers(folder):
            vars(self).update(folder=folder, info=info, lance=database.open_table(table))
            fields = {field.name: str(field.type) for field in self.lance.schema}
        kind = f"fixed_size_list<item: float>[{info['encoder']['dim']}]"
        needed = {*LOOKED_UP, "dataset", "case_id"} <= set(fields)
        if fields.get(VECTOR) != kind or not needed or self.lance.count_rows() != len(self):
            raise InputError(f"{folder}: its table does not fit its index.json: make it again with `{MAKER}`")

    def __len__(self) -> int:
        return self.info["images"]

    @cached_property
    def manifest_columns(self) -> list[str]:
        """All columns but the vectors."""
        return [name for name in self.lance.schema.names if name != VECTOR]

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, a block at a time, always in the same order."""
        with lance_answers(self.folder):
            yield from self.lance.search().select(list(columns)).to_batches(neighbours.BLOCK_ROWS)

    @cached_property
    def table(self) -> pa.Table:
        """The manifest, in memory."""
        return pa.Table.from_batches(self.scan(self.manifest_columns))

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """The dataset folders by name. Raises InputError if one lacks an indexed image, or has other pixels for it.

        Only the images of a folder that was changed are compared.
        """
        before = {entry["name"]: entry["fingerprint"] for entry in self.info["datasets"]}
        # Not super().datasets, which would be kept although an error follows.
        found: dict[str, Dataset] = EmbeddedRows.datasets.func(self)  # type: ignore[attr-defined]
        changed = {name: dataset for name, dataset in found.items() if dataset.fingerprint != before[name]}
        for batch in self.scan(["image_id", "dataset", "pixel_sha256"]) if changed else ():
            rows = batch.to_pandas()
            for name, dataset in changed.items():
                require_same_images(self.folder, dataset, rows[rows["dataset"] == name])
        return found

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The manifest, as it was indexed."""
        return self.table.to_pandas()

    @cached_property
    def targets_by_dataset(self) -> dict[str, dict[str, Target]]:
        """For each data set its targets at the time of indexing."""
        return self.recorded_targets

    @property
    def features(self) -> np.ndarray:
        """The unit vectors ``(N, D)``, in memory."""
        return np.concatenate([_vectors(batch) for batch in self.scan([VECTOR])])

    def blocks(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Manifest rows and unit vectors, a block at a time."""
        for batch in self.scan([*self.manifest_columns, VECTOR]):
            yield pa.Table.from_batches([batch]).drop_columns(VECTOR), _vectors(batch)

    def passing(self, where: str | None) -> str | None:
        """The filter as SQL, checked on the columns that it names."""
        if where is None:
            return None
        parsed = parse_where(where)
        asked = {term.column for term in comparisons(parsed)} & set(self.manifest_columns)
        read = pa.Table.from_batches(self.scan(sorted(asked) or ["image_id"]))
        columns = {name: read[name] if name in asked else pa.nulls(len(read)) for name in self.manifest_columns}
        passing_rows(parsed, pa.table(columns))
        return to_sql(parsed, self.lance.schema)

    def lookup(self, column: str, values: Sequence[str]) -> list[dict[str, Any]]:
        """As `SearchIndex.lookup`."""
        columns = [name for name in self.manifest_columns if name != "phash"]
        return self._rows(column, values, columns).to_pylist() if values else []

    def phashes(self, image_ids: Sequence[str]) -> dict[str, list[int]]:
        """As `SearchIndex.phashes`."""
        found = self._rows("image_id", image_ids, ["image_id", "phash"])
        return dict(zip(found["image_id"].to_pylist(), found["phash"].to_pylist(), strict=True))

    def vector(self, image_id: str) -> np.ndarray:
        """The unit vector ``(D,)`` of an image."""
        return _vectors(self._rows("image_id", [image_id], [VECTOR]).combine_chunks().to_batches()[0])[0]

    def _rows(self, column: str, values: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows with one of the ``values`` in a column."""
        tables = []
        for start in range(0, len(values), 1000):
            chosen = f"{column} IN ({_quoted(values[start : start + 1000])})"
            with lance_answers(self.folder):
                tables.append(self.lance.search().where(chosen).select(columns).to_arrow())
        return pa.concat_tables(tables)

    def nearest(
        self, feature: np.ndarray, k: int, passing: Any, column: str, left_out: Sequence[str]
    ) -> list[dict[str, Any]]:
        """As `SearchIndex.nearest`; ``passing`` is SQL. Only codes of rows that pass are compared."""
        k, unit = min(k, len(self)), neighbours.normalise(feature[None])[0]
        parts = [f"({passing})"] if passing else []
        parts += [f"{column} NOT IN ({_quoted(left_out)})"] if left_out else []
        columns = [*(name for name in self.manifest_columns if name != "phash"), "_distance"]
        search = self.lance.search(unit, VECTOR).distance_type("dot").select(columns).limit(k)
        search = search.where(" AND ".join(parts), prefilter=True) if parts else search
        search = search.nprobes(max(LEAST_CELLS, len(self) // CELL_ROWS // 8))
        search = search.refine_factor(max(CANDIDATES_PER_HIT, -(-CANDIDATES // k)))
        with lance_answers(self.folder):
            hits = search.to_arrow().to_pylist()
            if len(hits) < k:  # the visited cells hold too few rows that pass, so all rows are compared
                hits = search.bypass_vector_index().to_arrow().to_pylist()
        return [hit | {"similarity": 1 - hit.pop("_distance")} for hit in hits]


def manifest_schema(parts: Sequence[EmbeddedRows]) -> pa.Schema:
    """The union of the manifest columns of all parts, without the vectors of a table."""
    schemas = [part.lance.schema if isinstance(part, LanceIndex) else part.table.schema for part in parts]
    plain = [pa.schema([field for field in schema if field.name != VECTOR]) for schema in schemas]
    try:
        return pa.unify_schemas(plain, promote_options="default")
    except pa.ArrowTypeError:
        return pooled_rows([part.table for part in parts]).schema


def write_table(
    database: Any, name: str, blocks: Iterable[tuple[pa.Table, np.ndarray]], schema: pa.Schema, dim: int
) -> None:
    """Write the table of an index into a database: manifest rows of ``schema`` with unit vectors ``(n, dim)``."""
    require_names(schema.names)
    schema = schema.append(pa.field(VECTOR, pa.list_(pa.float32(), dim)))
    table = database.create_table(name, schema=schema)
    _add(table, blocks)
    indexes = require_package("lancedb.index", "lancedb")
    for column in LOOKED_UP:
        table.create_index(column, config=indexes.BTree())
    if table.count_rows() >= neighbours.LEAST_CODED_ROWS:
        codes = indexes.IvfFlat if dim % 8 else indexes.IvfRq  # RaBitQ codes have whole bytes
        table.create_index(VECTOR, config=codes(distance_type="dot", sample_rate=64))
    _tidy(table)


def require_names(columns: Iterable[str]) -> None:
    """Raise InputError for a column name that LanceDB does not take."""
    for name in columns:
        if re.search("[.`]", name) or name in RESERVED:
            hint = "give the target another name under `targets` in columns.yaml, and prepare the data again"
            raise InputError(f"column '{name}': LanceDB does not take this column name: {hint}")


def grow_table(folder: Path, old: Path, blocks: Iterable[tuple[pa.Table, np.ndarray]]) -> None:
    """Write the table of the index ``old`` with more rows into ``folder``."""
    # Hard links are enough, since LanceDB never changes a file that it has written.
    shutil.copytree(old / f"{TABLE}.lance", folder / f"{TABLE}.lance", copy_function=_link)
    _add(database_in(folder).open_table(TABLE), blocks)


def table_recall(index: LanceIndex, queries: int = MEASURED_QUERIES) -> dict[str, Any]:
    """Recall@k against exact search, as `neighbours.measured_recall` gives it."""
    depths = [depth for depth in neighbours.RECALL_DEPTHS if depth < len(index)]
    chosen = np.zeros(len(index), bool)
    chosen[neighbours.held_out_rows(len(index))[:queries]] = True
    if len(index) < neighbours.LEAST_CODED_ROWS:
        return {"queries": int(chosen.sum()), "at": {str(depth): 1.0 for depth in depths}}
    parts, row = [], 0
    for batch in index.scan([VECTOR]):
        parts.append(_vectors(batch)[chosen[row : row + len(batch)]])
        row += len(batch)
    probes = np.concatenate(parts)
    exact = np.full((len(probes), max(depths) + 1), -np.inf, np.float32)
    for batch in index.scan([VECTOR]):
        scores = np.hstack([exact, probes @ _vectors(batch).T])
        exact = -np.sort(np.partition(-scores, max(depths), axis=1)[:, : max(depths) + 1])
    found = {}
    for depth in depths:
        hits = [index.nearest(probe, depth + 1, None, "image_id", []) for probe in probes]
        found[depth] = np.array([[hit["similarity"] for hit in near] for near in hits])
    return neighbours.recall_against(exact, found)


def open_table_in(folder: Path, info: dict[str, Any]) -> LanceIndex:
    """The index in a folder, perhaps from somebody else; raises InputError if its table would read other folders."""
    for file in [folder / f"{TABLE}.lance", *(folder / f"{TABLE}.lance").rglob("*")]:
        inside(folder, str(file.relative_to(folder)))
        if file.suffix == ".manifest":
            refuse_foreign_rows(str(file), file.read_bytes())
    return LanceIndex(folder, info, database_in(folder))


def refuse_foreign_rows(file: str, manifest: bytes) -> None:
    """Raise InputError if the ``manifest`` of a table, read from ``file``, names other folders with rows."""
    start = int.from_bytes(manifest[-16:-8], "little") + 4
    message = manifest[start : start + int.from_bytes(manifest[start - 4 : start], "little")]
    try:
        fields = UnknownFieldSet(Empty.FromString(message))
    except DecodeError:
        raise InputError(f"{file} is damaged: make it again with `{MAKER}`") from None
    if any(field.field_number == BASE_PATHS for field in fields):
        raise InputError(f"{file}: the rows of this table are in another folder: make it again with `{MAKER}`")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _tidy(table: Any) -> None:
    """Update the indexes and delete all files of earlier versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of readers, but a new folder has none
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


def _add(table: Any, blocks: Iterable[tuple[pa.Table, np.ndarray]]) -> None:
    """Append blocks one by one, since LanceDB cannot write from a generator that reads from LanceDB."""
    for rows, unit in blocks:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), unit.shape[1])
        named = {name: rows[name].combine_chunks() for name in rows.column_names} | {VECTOR: vectors}
        arrays = [
            named[field.name].cast(field.type) if field.name in named else pa.nulls(len(unit), field.type)
            for field in table.schema
        ]
        table.add(pa.Table.from_arrays(arrays, schema=table.schema))
    _tidy(table)


def _vectors(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column(VECTOR)
    return column.flatten().to_numpy().reshape(len(batch), -1)


def _quoted(values: Sequence[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def database_in(folder: Path) -> Any:
    """The LanceDB database in a folder."""
    return require_package("lancedb", "lancedb").connect(folder)


def require_package(name: str, install: str) -> Any:
    """Import an optional package; raises InputError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"this needs the package {install}: pip install {install}") from None


@contextmanager
def lance_answers(folder: Path | str) -> Iterator[None]:
    """Turn an error of LanceDB into InputError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        if is_address(folder) and re.search("S3|AWS", str(error)):
            code = re.search(r"<Code>(\w+)</Code>", str(error))
            raise InputError(
                f"{folder}: the object store does not answer or refuses access ({code[1] if code else 'no answer'}): "
                "check credentials, region and endpoint in the environment (AWS_ACCESS_KEY_ID and so on)"
            ) from None
        raise InputError(f"{folder} is damaged ({shortened(error)}): make it again with `{MAKER}`") from None
