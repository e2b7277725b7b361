"""An index of the type ``lance`` in an object store, at an address such as ``s3://bucket/index``.

Only addresses that the user gives are contacted; no file of an index can name one. Credentials, region and endpoint
come from the environment (``AWS_ACCESS_KEY_ID`` and so on) and are never written.

The address is a LanceDB database. The table ``index-000001`` holds the content of ``index.json`` in one row, and names
the table of the images. A change writes a new table of images, then creates ``index-000002``. No writer holds a lock: a
killed writer delays nobody, and of two writers the second changes nothing.

Only the first version of a table ``index-...`` counts. LanceDB writes it with a conditional request, which succeeds for
one writer only. ``create_table`` alone is not enough: if another writer creates the table just after ``create_table``
has checked that it does not exist, the call succeeds and writes a second version.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from pyarrow import fs
from pydantic import ValidationError

from dermeval.retrieval.index_folder import MAKER, IndexInfo
from dermeval.retrieval.lance import LanceIndex, lance_answers, refuse_foreign_rows, require_package
from dermssl.errors import InputError, shortened

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]+(?:/(?!\.+(?:/|$))[A-Za-z0-9._=-]+)+)")
STATE, IMAGES = "index-{:06d}", re.compile(r"images-[0-9a-f]{16}")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
MEASURED_QUERIES = 20
"""Queries that measure the recall. Each is searched for three times, and a search takes about 100 requests."""
PATIENCE = {"connect_timeout": "5s", "timeout": "60s", "client_max_retries": "2", "client_retry_timeout": "20"}


class StoredIndex(LanceIndex):
    """An index in an object store; ``number`` is that of its latest change."""

    number: int

    def __init__(self, address: str) -> None:
        number = latest(address)
        if not number:
            raise InputError(f"{address} holds no index: make it with `{MAKER}`")
        info = _recorded(address, number)
        _check_self_contained(address, info["table"])
        super().__init__(address, info, _database(address), info["table"])
        vars(self).update(number=number)


def _recorded(address: str, number: int) -> dict[str, Any]:
    """The checked content of a table ``index-...``."""
    name = STATE.format(number)
    _check_self_contained(address, name)
    with lance_answers(address):
        table = _database(address).open_table(name)
        table.checkout(1)
        text = table.to_arrow()["json"][0].as_py()
    try:
        IndexInfo.model_validate_json(text, strict=True)
        info = json.loads(text)
        if IMAGES.fullmatch(info["table"]):
            return info
    except (ValidationError, KeyError, TypeError):
        pass
    raise InputError(f"{address}: its table {name} is damaged: make it again with `{MAKER}`")


def latest(address: str) -> int:
    """The number of the latest change of the index at an address; 0 if there is no index."""
    return max(_changes(_tables(address)), default=0)


def finish(address: str) -> None:
    """Delete the tables that a command had still to delete when it was killed after its change."""
    *earlier, last = sorted(_changes(_tables(address))) or [0]
    for number in earlier:
        with suppress(InputError):  # a killed command had already deleted a part of this table and all its images
            _drop(address, {_recorded(address, number)["table"]} - {_recorded(address, last)["table"]})
        _drop(address, {STATE.format(number)})


def require_new_address(address: str, overwrite: bool, inputs: Sequence[str]) -> None:
    """Raise InputError if an address is an input, holds other tables, or holds an index that may not be replaced."""
    if address in [given.rstrip("/") for given in inputs]:
        raise InputError(f"{address} is read: choose another --out")
    tables = _tables(address)
    foreign = [name for name in tables if not _changes([name]) and not IMAGES.fullmatch(name)]
    if foreign:
        raise InputError(f"{address} holds '{shortened(foreign[0])}', which this command did not write: choose another")
    if _changes(tables) and not overwrite:
        raise InputError(f"{address} already exists: choose another --out, or add --overwrite to replace it")


def publish(address: str, number: int, info: dict[str, Any], fill: Callable[[Any, str], Any]) -> None:
    """Change the index at an address, and delete all tables of earlier changes.

    ``number`` is that of the previous change. ``info`` is recorded with the name of the table of images and the
    measured recall. ``fill`` writes the table of images into a database, under a given name, and returns the recall.

    Raises InputError if another command has changed the index meanwhile; its change then stands.
    """
    database, new, failure = _database(address), f"images-{secrets.token_hex(8)}", None
    try:
        with lance_answers(address):
            info |= {"table": new, "files": {}, "recall": fill(database, new)}
            # Tables that exist now belong to earlier changes, so only these are deleted afterwards.
            earlier = _tables(address)
            database.create_table(STATE.format(number + 1), pa.table({"json": [json.dumps(info)]}))
    except BaseException as error:
        failure = error
    # After an error the table may have been written all the same: the answer to the request may have been lost.
    last = latest(address)
    if last != number + 1 or _recorded(address, last)["table"] != new:
        _drop(address, {new})
        if failure is None or (isinstance(failure, InputError) and last != number):
            raise InputError(f"another command has changed {address}: give this command again")
        raise failure
    if failure is not None and not isinstance(failure, Exception):
        raise failure
    _drop(address, {name for name in earlier if IMAGES.fullmatch(name)} - {new})
    _drop(address, {STATE.format(change) for change in _changes(earlier)})


def _changes(tables: Sequence[str]) -> list[int]:
    """The numbers of the changes that have a table."""
    return [int(name[6:]) for name in tables if re.fullmatch(r"index-\d{6}", name)]


def _drop(address: str, names: Collection[str]) -> None:
    for name in names:
        with lance_answers(address):
            _database(address).drop_table(name, ignore_missing=True)


def _tables(address: str) -> list[str]:
    with lance_answers(address):
        return _database(address).list_tables(limit=10_000).tables


def _endpoint() -> str | None:
    """The S3 server if it is not Amazon's."""
    name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if name and not re.match("https?://", os.environ[name]):
        raise InputError(f"{name}={os.environ[name]} is no address of a server: begin it with https:// or http://")
    return os.environ[name] if name else None


def _database(address: str) -> Any:
    if not ADDRESS.fullmatch(address):
        raise InputError(
            f"{shortened(address, 100)} is no address of the form s3://bucket/index (credentials, region and endpoint "
            "are read from the environment: AWS_ACCESS_KEY_ID and so on)"
        )
    server = _endpoint()
    options = PATIENCE | ({"aws_endpoint": server} if server else {})
    return require_package("lancedb", "lancedb").connect(address, storage_options=options)


def _check_self_contained(address: str, table: str) -> None:
    """Raise InputError if a table would read files at other addresses."""
    try:
        store = fs.S3FileSystem(endpoint_override=_endpoint(), connect_timeout=5, request_timeout=60)
        folder = fs.FileSelector(f"{address.removeprefix('s3://')}/{table}.lance/_versions")
        manifests = {file.path: store.open_input_stream(file.path).read() for file in store.get_file_info(folder)}
    except OSError as error:
        raise InputError(f"{address}: the object store does not answer ({shortened(error, 200)})") from None
    for path, content in manifests.items():
        if path.endswith(".manifest"):
            refuse_foreign_rows(f"s3://{path}", content)
