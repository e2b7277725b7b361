"""An index on an object store answers like one in a folder, and only an address that the user gives is contacted."""

import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from dermeval.retrieval.find import find, indexed_query
from dermeval.retrieval.index import index, open_source, write_index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import IndexOptions, RetrievalOptions
from dermeval.retrieval.retrieval import retrieval
from dermssl import neighbours
from dermssl.errors import InputError

lancedb = pytest.importorskip("lancedb")
object_store = pytest.importorskip("dermeval.retrieval.object_store")
SECRET = "not-to-be-written"
SERVER = """
import sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

app, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start):
    with turn:
        return list(app(environ, start))

run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True)
"""
WRITER = """
import json, sys
import pyarrow as pa
from dermeval.retrieval import object_store
from dermssl.errors import InputError

address, writer, info = sys.argv[1:]

def fill(database, name):
    database.create_table(name, pa.table({"writer": [writer]}))
    input("ready\\n")
    return json.loads(info)["recall"]

for _ in range(20):
    number = object_store.latest(address)
    input("ready\\n")
    try:
        object_store.publish(address, number, json.loads(info), fill)
        input("done\\n")
    except InputError as error:
        input(f"{error}\\n")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of a server that speaks S3.

    It answers one request at a time, since a conditional write of moto is not atomic: it looks whether the object
    exists and then writes it. With ``sys.setswitchinterval(1e-6)``, in one of 60 tries two of four clients that sent
    ``If-None-Match: *`` for one key at the same time were both answered 200.
    """
    pytest.importorskip("moto", reason="needs a stand-in for S3: pip install 'moto[server]'")
    log = tmp_path_factory.mktemp("moto") / "log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def bucket(server, monkeypatch):
    """``s3://`` and a new bucket, with credentials in the environment."""
    from pyarrow import fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server}",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(neighbours, "LEAST_CODED_ROWS", 10)
    name = f"bucket{time.monotonic_ns()}"
    fs.S3FileSystem(endpoint_override=f"127.0.0.1:{server}", scheme="http", allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"


@pytest.fixture
def parts(make_dataset, embed_as, draw_skin):
    """Embeddings of two data sets, 20 patients with two images each."""
    random = np.random.default_rng(3)
    folders = []
    for first, name in ((0, "one"), (40, "it's")):
        pictures = [draw_skin(first + n, 16) for n in range(40)]
        data = make_dataset(name, pictures, [f"p{n // 2}" for n in range(40)], None, ["a", "b", "c", "d"] * 10)
        folders.append(str(embed_as(data, random.normal(size=(40, 16)))))
    return folders


def answers(folder, images=("one/0", "it's/7")):
    """What searches find, with and without a filter."""
    found = open_index(folder)
    return [
        [(hit["image_id"], round(hit["similarity"], 5)) for hit in find(found, query, 8, passing=passing).hits]
        for query in (indexed_query(found, name) for name in images)
        for passing in (None, found.passing("dx == 'b' and dataset != 'one'"))
    ]


def objects(bucket):
    """All objects of a bucket, by name."""
    from pyarrow import fs

    store = fs.S3FileSystem(endpoint_override=object_store._endpoint())
    files = store.get_file_info(fs.FileSelector(bucket.removeprefix("s3://"), recursive=True))
    return {file.path: store.open_input_stream(file.path).read() for file in files if file.is_file}


@pytest.mark.parametrize(("licence", "told"), [("PASSION", True), ("unknown", True), ("CC-BY-4.0", False)])
def test_data_that_may_not_be_passed_on_are_told_before_they_leave(
    make_dataset, embed_as, draw_skin, monkeypatch, caplog, licence, told
):
    data = make_dataset("set", [draw_skin(n, 16) for n in range(4)], list("aabb"), licence=licence)
    source = open_source(str(embed_as(data, np.eye(4))))
    monkeypatch.setattr("dermeval.retrieval.index._write_stored", lambda *_: None)
    write_index("s3://bucket/index", [source], "lance", "chosen for a test")
    assert ("features of set leave this machine for s3://bucket/index" in caplog.text) == told


def test_an_index_is_built_searched_grown_merged_and_judged_as_in_a_folder(bucket, parts, tmp_path):
    flat, stored, merged = str(tmp_path / "flat"), f"{bucket}/team/one", f"{bucket}/merged"
    index(IndexOptions(sources=parts, out=flat, type="flat"))
    index(IndexOptions(sources=parts[:1], out=stored))
    index(IndexOptions(out=f"{stored}/", append=parts[1:]))
    index(IndexOptions(sources=[stored], out=merged))
    index(IndexOptions(sources=[merged], out=str(tmp_path / "back"), type="flat"))
    assert answers(stored) == answers(merged) == answers(flat) == answers(tmp_path / "back")
    judged = [retrieval(RetrievalOptions([folder], draws=40)).data["encoders"][0] for folder in (stored, flat)]
    assert judged[0]["scores"] == judged[1]["scores"]
    names = {name.split("/")[2] for name in objects(bucket) if "/team/" not in name}
    assert {name.partition("-")[0] for name in names} == {"index", "images"} and len(names) == 2
    assert not [name for name, content in objects(bucket).items() if SECRET.encode() in content]


def test_a_removed_patient_is_in_no_object(bucket, parts, monkeypatch):
    stored = f"{bucket}/x"
    index(IndexOptions(sources=parts, out=stored))
    vector = open_index(stored).vector("one/4").tobytes()
    assert [name for name, content in objects(bucket).items() if vector in content]
    with pytest.raises(InputError, match="add --also"):
        index(IndexOptions(out=stored, remove=["one/p2"]))
    with monkeypatch.context() as patched:
        patched.setattr(object_store, "_drop", interrupted)  # the change is made, the old table is still there
        with pytest.raises(KeyboardInterrupt):
            index(IndexOptions(out=stored, remove=["one/4"], index_only=True))
    assert len(open_index(stored)) == 79
    report = index(IndexOptions(out=stored, remove=["one/5"], index_only=True))
    assert report.data["removed"] == {stored: 1} and len(open_index(stored)) == 78
    assert not [name for name, content in objects(bucket).items() if vector in content]


def test_of_two_writers_one_is_told(bucket, parts):
    """Two processes, 20 times: LanceDB's ``create_table`` went through for both in 5 of 60 tries."""
    stored = f"{bucket}/x"
    index(IndexOptions(sources=parts[:1], out=stored))
    info = json.dumps(dict(open_index(stored).info))
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, stored, name, info], text=True, stdin=-1, stdout=-1)
        for name in ("one", "two")
    ]

    def step():
        """Wait until both have said something, then let both go on."""
        said = [writer.stdout.readline().strip() for writer in writers]
        for writer in writers:
            writer.stdin.write("\n")
            writer.stdin.flush()
        return said

    for _ in range(20):
        assert [step(), step()] == [["ready"] * 2] * 2
        assert sorted(step()) == [f"another command has changed {stored}: give this command again", "done"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert object_store.latest(stored) == 21 and len(object_store._tables(stored)) == 2


def test_a_change_whose_answer_was_lost_is_kept(bucket, parts, monkeypatch):
    stored, create = f"{bucket}/x", lancedb.db.LanceDBConnection.create_table

    def lost(self, name, *given, **named):
        table = create(self, name, *given, **named)
        if name.startswith("index-"):
            raise RuntimeError("S3: no answer")
        return table

    monkeypatch.setattr(lancedb.db.LanceDBConnection, "create_table", lost)
    index(IndexOptions(sources=parts, out=stored))
    assert len(open_index(stored)) == 80


def test_a_writer_that_slept_through_two_changes_is_told_and_harms_neither(bucket, parts, monkeypatch):
    stored = f"{bucket}/x"
    index(IndexOptions(sources=parts[:1], out=stored))
    create, slept = lancedb.db.LanceDBConnection.create_table, []

    def sleep(self, name, *given, **named):
        if name == "index-000002" and not slept:
            slept.append(name)
            for image in ("one/4", "one/6"):
                index(IndexOptions(out=stored, remove=[image], index_only=True))
        return create(self, name, *given, **named)

    monkeypatch.setattr(lancedb.db.LanceDBConnection, "create_table", sleep)
    with pytest.raises(InputError, match="another command has changed"):
        index(IndexOptions(out=stored, append=parts[1:]))
    assert len(open_index(stored)) == 38


def test_a_build_that_ends_early_changes_nothing(bucket, parts, monkeypatch):
    stored = f"{bucket}/x"
    index(IndexOptions(sources=parts, out=stored))
    held = set(objects(bucket))
    with monkeypatch.context() as patched:
        patched.setattr(object_store.LanceIndex, "nearest", interrupted)  # asked when the recall is measured
        with pytest.raises(KeyboardInterrupt):
            index(IndexOptions(sources=parts[:1], out=stored, overwrite=True))
    assert set(objects(bucket)) == held and len(open_index(stored)) == 80


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_an_address_is_checked_and_others_tables_are_kept(bucket, parts):
    for wrong in (
        "s3://",
        "s3://key:secret@bucket/x",
        "s3://bucket",
        "s3://bucket/../x",
        "http://bucket/x",
        "s3://b/x?y",
    ):
        with pytest.raises(InputError, match="is no address of the form"):
            index(IndexOptions(sources=parts, out=wrong))
    with pytest.raises(InputError, match=r"object store does not answer.*NoSuchBucket"):
        open_index("s3://nobody-has-this/x")
    with pytest.raises(InputError, match="holds no index"):
        open_index(f"{bucket}/x")
    with pytest.raises(InputError, match="only the type lance is possible"):
        index(IndexOptions(sources=parts, out=f"{bucket}/x", type="scan"))
    index(IndexOptions(sources=parts, out=f"{bucket}/x"))
    assert len(open_index(f"{bucket}/x/")) == 80
    with pytest.raises(InputError, match="already exists"):
        index(IndexOptions(sources=parts, out=f"{bucket}/x"))
    with pytest.raises(InputError, match="is read"):
        index(IndexOptions(sources=[f"{bucket}/x"], out=f"{bucket}/x/", overwrite=True))
    lancedb.connect(f"{bucket}/y", storage_options={"aws_endpoint": object_store._endpoint()}).create_table(
        "mine", [{"a": 1}]
    )
    with pytest.raises(InputError, match="holds 'mine'"):
        index(IndexOptions(sources=parts, out=f"{bucket}/y", overwrite=True))


def test_missing_credentials_and_a_server_without_https_are_named(bucket, parts, monkeypatch):
    index(IndexOptions(sources=parts, out=f"{bucket}/x"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match="check credentials"):
        open_index(f"{bucket}/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL=minio:9000 is no address of a server"):
        open_index(f"{bucket}/x")


def test_a_received_index_makes_nobody_contact_a_store(bucket, parts, tmp_path, monkeypatch):
    folder, asked = tmp_path / "received", []
    index(IndexOptions(sources=parts, out=str(folder), type="lance"))
    info = json.loads((folder / "index.json").read_text())
    evil = f"{bucket}/evil"
    index(IndexOptions(sources=parts, out=evil))
    info["sources"], info["datasets"][0]["path"], info["table"] = [evil], evil, evil
    (folder / "index.json").write_text(json.dumps(info))
    monkeypatch.setattr(object_store, "_database", lambda address: asked.append(address))
    index(IndexOptions(out=str(folder), remove=["one/4"], index_only=True))
    assert answers(folder) and not asked


def test_a_table_at_an_address_that_reads_elsewhere_is_refused(bucket, parts):
    options = {"aws_endpoint": object_store._endpoint()}
    index(IndexOptions(sources=parts, out=f"{bucket}/x"))
    info = dict(open_index(f"{bucket}/x").info)
    database = lancedb.connect(f"{bucket}/y", storage_options=options)
    name = "images-" + "0" * 16
    database.clone_table(name, f"{bucket}/x/{info['table']}.lance", is_shallow=True)
    database.create_table("index-000001", [{"json": json.dumps(info | {"table": name})}])
    with pytest.raises(InputError, match="rows of this table are in another folder"):
        open_index(f"{bucket}/y")
