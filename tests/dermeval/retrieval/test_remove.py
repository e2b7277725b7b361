"""A withdrawn consent: after `index --remove` no file holds the vector, the row or the picture."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from dermeval.features.embed import embed
from dermeval.features.embeddings import open_embeddings
from dermeval.features.options import EmbedOptions
from dermeval.leaks.leaks import leaks
from dermeval.leaks.options import LeaksOptions
from dermeval.probes.knn import knn
from dermeval.probes.options import KnnOptions
from dermeval.retrieval.index import index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import IndexOptions, SearchOptions
from dermeval.retrieval.search import search
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.manifest import to_table
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet, sha256_file, write_json, write_parquet
from dermssl.neighbours import normalise

PROBLEMS_OF_P1 = """3.jpg,EXIF block broken,kept
b/x.jpg,byte-identical copy: 4.jpg,one image kept
case set/p1,images of one case have different labels of 'dx',out of case-level scores
subject p1,no split in the split file,kept without a split
lesion set/7,"one lesion has several patients: set/p1, set/p2",kept together
"""
OTHER_PROBLEMS = """9.jpg,grey,kept
b/y.jpg,byte-identical copy: 14.jpg,one image kept
subject p10,no split in the split file,kept without a split
"""


@pytest.fixture
def folders(request, make_dataset, embed_as, draw_skin, tmp_path):
    """12 images of 4 patients: dataset, embeddings and index folder, and what they hold of patient p1."""
    if getattr(request, "param", "flat") == "lance":
        pytest.importorskip("lancedb")
    features = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    data = make_dataset("set", [draw_skin(n, 32) for n in range(12)], [f"p{n // 3}" for n in range(12)])
    (data / "problems.csv").write_text(f"file,problem,action\n{PROBLEMS_OF_P1}{OTHER_PROBLEMS}")
    embeddings, out = embed_as(data, features), tmp_path / "index"
    index(IndexOptions(sources=[str(embeddings)], out=str(out), type=getattr(request, "param", "flat")))
    unfinished = embeddings.with_name(embeddings.name + ".unfinished")
    unfinished.mkdir()
    np.save(unfinished / "rows-000000000.npy", features)
    jpegs = [bytes(open_dataset(data).images.jpeg(row)) for row in range(12)]
    killed = data.with_name(f".{data.name}.work")  # of a `prepare --overwrite` that was killed
    killed.mkdir()
    (killed / "images-00000.arrow").write_bytes(b"".join(jpegs))
    (data / "rows-00000.parquet").write_bytes(b"".join(jpegs))
    secrets = [vector.tobytes() for part in (features, normalise(features)) for vector in part[3:6]]
    secrets += [jpeg[200:] for jpeg in jpegs[3:6]]
    return data, embeddings, out, secrets


@pytest.fixture
def remove(folders):
    """``remove(*ids)`` takes images out of the index and of both folders that it was made from."""
    data, embeddings, out, _ = folders

    def run(*ids, also=(data, embeddings)):
        return index(IndexOptions(out=str(out), remove=list(ids), also=list(map(str, also))))

    return run


def files_with(root, secret):
    return [path for path in root.rglob("*") if path.is_file() and secret in path.read_bytes()]


@pytest.mark.parametrize("folders", ["flat", "lance"], indirect=True)
def test_no_byte_of_a_removed_patient_is_left_and_the_others_are_as_they_were(folders, remove, tmp_path):
    data, embeddings, out, secrets = folders
    assert all(files_with(tmp_path, secret) for secret in secrets)
    before = open_embeddings(embeddings).features[[0, 11]].copy()
    picture = bytes(open_dataset(data).images.jpeg(11))
    report = remove("set/p1")
    assert set(report.data["removed"]) == {str(data), str(embeddings), str(out)}
    for secret in secrets:
        assert not files_with(tmp_path, secret)
    for name in ("set/3", "set/4", "set/5", "set/p1"):
        assert name not in str([t.to_pylist() for t in (open_dataset(data).table, open_index(out).table)])
    assert np.array_equal(open_embeddings(embeddings).features[[0, 8]], before)
    assert bytes(open_dataset(data).images.jpeg(8)) == picture
    assert (data / "problems.csv").read_text() == f"file,problem,action\n{OTHER_PROBLEMS}"
    assert open_dataset(data).info["counts"]["images"] == 9


def test_after_a_removal_searches_go_on_without_a_warning(folders, remove, caplog):
    out = folders[2]
    remove("set/4")
    hits = search(SearchOptions(index=str(out), image_id=["set/0"], per_image=True, k=20)).data["queries"][0]["hits"]
    assert {hit["image_id"] for hit in hits} == {f"set/{n}" for n in (3, 5, 6, 7, 8, 9, 10, 11)}
    assert "changed" not in caplog.text


def test_a_data_set_whose_copy_was_changed_is_not_said_to_have_changed(folders, tmp_path, caplog):
    data, _, out, _ = folders
    copy = shutil.copytree(data, tmp_path / "copy")
    index(IndexOptions(out=str(out), remove=["set/4"], also=[str(copy)], index_only=True))
    search(SearchOptions(index=str(out), image_id=["set/0"]))
    assert len(open_dataset(copy)) == 11 and len(open_dataset(data)) == 12 and "changed" not in caplog.text


def test_codes_are_made_anew_without_the_removed_rows(make_dataset, embed_as, draw_skin, tmp_path):
    features = np.random.default_rng(0).normal(size=(1200, 8))
    data = make_dataset("set", [draw_skin(0, 16)] * 1200, [f"p{n}" for n in range(1200)])
    out = tmp_path / "index"
    index(IndexOptions(sources=[str(embed_as(data, features))], out=str(out), type="scan"))
    index(IndexOptions(out=str(out), remove=["set/7", "set/p9"], index_only=True))
    entries = open_index(out).entries
    assert entries.codes.ntotal == len(entries) == 1198


@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_data_set_without_an_image_is_no_longer_asked_for(make_dataset, embed_as, draw_skin, tmp_path, all_of_it):
    data = [make_dataset(name, [draw_skin(n, 32) for n in range(3)], ["a", "b", "c"]) for name in ("one", "two")]
    folders = [embed_as(folder, np.random.default_rng(0).normal(size=(3, 4))) for folder in data]
    out, named = tmp_path / "index", [str(folder) for folder in (*data, *folders)]
    index(IndexOptions(sources=[str(folder) for folder in folders], out=str(out)))
    gone = ["two/a", "two/b", "two/c", *(["one/a", "one/b", "one/c"] if all_of_it else [])]
    index(IndexOptions(out=str(out), remove=gone, also=named))
    shutil.rmtree(data[1])
    if not all_of_it:
        open_index(out).require_pictures()
        report = search(SearchOptions(index=str(out), image_id=["one/0"]))
        assert len(report.data["queries"][0]["hits"]) == 2
    assert len(open_index(out)) == (0 if all_of_it else 3)


def test_commands_refuse_folders_whose_images_were_all_removed(folders, remove, tmp_path):
    data, embeddings, out, _ = folders
    remove(*(f"set/p{n}" for n in range(4)))
    new = str(tmp_path / "new")
    for command in (
        lambda: search(SearchOptions(index=str(out), image_id=["set/0"])),
        lambda: index(IndexOptions(sources=[str(embeddings)], out=new)),
        lambda: knn(KnnOptions(embeddings=[str(embeddings)])),
        lambda: embed(EmbedOptions(encoder="random:test_vit", data=[str(data)], out=new)),
        lambda: leaks(LeaksOptions(folders=[str(data)], out=new)),
    ):
        with pytest.raises(InputError, match="no images left, all were removed"):
            command()


def test_an_unknown_id_removes_nothing(folders, remove, tmp_path):
    secrets = folders[3]
    with pytest.raises(InputError, match=r"no image, patient, lesion or case of that id .* did you mean"):
        remove("set/p1", "set/pp2")
    assert all(files_with(tmp_path, secret) for secret in secrets)


def rewrite(data, change):
    """Change the manifest of a dataset folder, as a new preparation would."""
    frame = read_parquet(data / "manifest.parquet", "").to_pandas()
    change(frame)
    write_parquet(data / "manifest.parquet", to_table(frame))


def left_in(*folders):
    return [sorted(opened.table["image_id"].to_pylist(), key=lambda name: int(name[4:])) for opened in folders]


@pytest.fixture
def indexed(make_dataset, embed_as, draw_skin, tmp_path):
    """``indexed(change)`` -> dataset, embeddings and index folder of 12 images of 4 patients, with another manifest."""

    def make(change=lambda frame: None):
        data = make_dataset("set", [draw_skin(n, 16) for n in range(12)], [f"p{n // 3}" for n in range(12)])
        rewrite(data, change)
        embeddings = embed_as(data, np.random.default_rng(0).normal(size=(12, 8)))
        index(IndexOptions(sources=[str(embeddings)], out=str(tmp_path / "index")))
        return data, embeddings, tmp_path / "index"

    return make


def take(folders, name):
    """Remove an id from all folders; returns the images that are left in the data set and in the index."""
    data, embeddings, out = folders
    index(IndexOptions(out=str(out), remove=[name], also=[str(data), str(embeddings)]))
    return left_in(open_dataset(data), open_index(out))


def test_an_id_of_a_patient_and_of_a_lesion_of_another_is_refused_until_one_is_named(indexed):
    folders = indexed(lambda frame: frame.__setitem__("lesion_id", [None] * 9 + ["set/p1"] * 3))
    with pytest.raises(InputError, match=r"different images: .* patient_id=set/p1 \(3 images\), lesion_id=set/p1 \(3"):
        take(folders, "set/p1")
    assert take(folders, "lesion_id=set/p1") == [[f"set/{n}" for n in range(9)]] * 2


def test_a_patient_who_shares_a_group_goes_only_if_named(indexed):
    folders = indexed(lambda frame: frame.__setitem__("group_id", ["set/p0"] * 3 + ["set/p1"] * 6 + ["set/p3"] * 3))
    with pytest.raises(InputError, match=r"patient_id=set/p1 \(3 images\), .*group_id=set/p1 \(6 images\)"):
        take(folders, "set/p1")
    assert take(folders, "patient_id=set/p1") == [[f"set/{n}" for n in (0, 1, 2, *range(6, 12))]] * 2


def test_the_images_of_a_patient_are_those_that_the_data_set_says_now(indexed):
    """The data set was prepared again after it was indexed: images 3 and 6 have changed places."""

    def corrected(frame):
        for column in ("patient_id", "group_id", "case_id"):
            frame.loc[[3, 6], column] = ["set/p2", "set/p1"]

    folders = indexed()
    rewrite(folders[0], corrected)
    assert take(folders, "set/p1") == [[f"set/{n}" for n in (0, 1, 2, 3, *range(7, 12))]] * 2


def test_options_of_a_removal_are_refused_without_one(folders):
    data, embeddings, out, _ = folders
    with pytest.raises(InputError, match="belong to --remove"):
        index(IndexOptions(out=str(out), append=[str(embeddings)], also=[str(data)]))


def test_folders_out_of_reach_are_named_and_the_ledger_is_asked(folders, remove):
    data, embeddings, _, _ = folders
    embeddings.rename(embeddings.with_name("elsewhere"))
    report = remove("set/p1", also=[data, embeddings.with_name("elsewhere")])
    assert report.data["out_of_reach"] == [str(embeddings)]
    assert "OUT OF REACH" in report.text and str(embeddings.with_name("elsewhere")) in report.data["removed"]
    assert "whether the encoder e was trained on them is not known" in report.text


def test_the_ledger_is_asked_about_images_that_only_a_folder_behind_the_index_holds(folders, remove, tmp_path):
    data, embeddings, out, _ = folders
    (tmp_path / "run").mkdir()
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(b"weights")
    write_parquet(tmp_path / "run" / "ledger.parquet", with_times_seen(open_dataset(data).table))
    info = read_json(embeddings / "embedding.json", "")
    info["encoder"] |= {"path": str(tmp_path / "run"), "fingerprint": sha256_file(weights)}
    write_json(embeddings / "embedding.json", info)
    index(IndexOptions(sources=[str(embeddings)], out=str(out), overwrite=True))
    index(IndexOptions(out=str(out), remove=["set/p1"], index_only=True))
    assert "TRAINED on 3 of them" in remove("set/p1").text


def with_times_seen(table):
    return table.append_column("times_seen", pa.array([1] * len(table)))


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_removal_that_was_interrupted_is_given_again_and_does_the_rest(folders, remove, monkeypatch, tmp_path):
    from dermeval.retrieval import remove as module

    secrets = folders[3]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_from_embeddings", interrupted)  # the data set is done, the index not yet
        with pytest.raises(KeyboardInterrupt):
            remove("set/p1")
    remove("set/p1")
    for secret in secrets:
        assert not files_with(tmp_path, secret)


def test_a_folder_that_is_not_named_is_never_touched(folders, remove, tmp_path):
    """The paths in an index that came from somebody else may lead anywhere."""
    data, embeddings, out, _ = folders
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"add --also {data}") as told:
        remove("set/p1", also=[embeddings])
    assert "\n" not in str(told.value)
    assert all(path.read_bytes() == content for path, content in files.items())
    report = index(IndexOptions(out=str(out), remove=["set/p1"], index_only=True))
    assert report.data["kept"] == [str(data), str(embeddings)] and f"KEPT in {data}" in report.text
    changed = [path for path, content in files.items() if path.read_bytes() != content]
    assert changed and all(path.is_relative_to(out) for path in changed)
