"""`dermssl prepare`: decode once, report everything, lose nothing, go on after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermssl.dataset.dataset import open_dataset, open_datasets
from dermssl.dataset.hashes import pixel_hash
from dermssl.errors import InputError
from dermssl.prepare import shards
from dermssl.prepare.sources import known_overlaps


def _photo(seed=0, size=(64, 48)):
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """Class folders with four good photos."""
    root = tmp_path / "raw"
    for number, name in enumerate(("wart/a.jpg", "wart/b.jpg", "naevus/c.jpg", "naevus/é.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _photo(number).save(root / name, quality=95)
    return root


@pytest.fixture
def prepare(dermssl, tmp_path):
    def run(root, *arguments, source="folder", out="data"):
        options = ("--source", source, "--root", root, "--out", tmp_path / out, "--workers", 1)
        return dermssl("prepare", *options, *arguments)

    return run


def _problems(folder):
    table = pd.read_csv(folder / "problems.csv")
    return dict(zip(table["file"], table["problem"], strict=True))


def test_a_folder_becomes_a_manifest_and_images_in_the_same_order(photos, prepare, tmp_path):
    assert prepare(photos).code == 0
    dataset = open_dataset(tmp_path / "data")
    assert list(dataset.column("image_id")) == ["folder/naevus/c", "folder/naevus/é", "folder/wart/a", "folder/wart/b"]
    for row, file in enumerate(dataset.column("file")):
        original = np.asarray(Image.open(photos / file))
        assert np.array_equal(np.asarray(dataset.images.image(row)), original), "small JPEGs keep their exact pixels"
        assert dataset.column("pixel_sha256")[row] == pixel_hash(Image.open(photos / file))
    assert list(dataset.column("group_id")) == list(dataset.column("image_id"))
    assert dataset.info["title"] == "folder", "your own data have no other title than their name"


def test_large_images_are_stored_smaller_and_their_true_size_is_recorded(prepare, tmp_path):
    (tmp_path / "raw").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    _photo(size=(400, 200)).save(tmp_path / "raw" / "a.jpg", exif=exif)
    prepare(tmp_path / "raw", "--short-side", 50)
    row = open_dataset(tmp_path / "data").frame().iloc[0]
    assert (row["width"], row["height"], row["stored_width"], row["stored_height"]) == (200, 400, 50, 100)


def test_one_name_in_two_formats_gives_two_ids(photos, prepare, tmp_path):
    _photo(9).save(photos / "wart" / "a.png")
    prepare(photos)
    ids = list(open_dataset(tmp_path / "data").column("image_id"))
    assert "folder/wart/a.jpg" in ids and "folder/wart/a.png" in ids and len(set(ids)) == 5


@pytest.fixture
def damaged(photos, tmp_path):
    """Good photos among every kind of damage."""
    jpeg = (photos / "wart" / "a.jpg").read_bytes()
    (tmp_path / "outside.jpg").write_bytes(jpeg)
    (photos / "wart" / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (photos / "wart" / "empty.jpg").touch()
    (photos / "wart" / "page.png").write_bytes(b"<html>404 not found</html>")
    (photos / "wart" / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    (photos / "wart" / "scan.dcm").write_bytes(b"DICM")
    _photo(5).save(photos / "wart" / "png_inside.JPG", "PNG")
    _photo(6).convert("CMYK").save(photos / "wart" / "cmyk.jpeg")
    return photos


def test_all_damage_is_reported_and_every_good_image_is_there(damaged, prepare, tmp_path):
    outcome = prepare(damaged)
    assert outcome.code == 0 and "scan.dcm" not in outcome.out
    assert set(_problems(tmp_path / "data")) == {
        "wart/truncated.jpg",
        "wart/empty.jpg",
        "wart/page.png",
        "wart/out.jpg",
        "wart/scan.dcm",
    }
    kept = set(open_dataset(tmp_path / "data").column("file"))
    assert kept == {"naevus/c.jpg", "naevus/é.jpg"} | {
        f"wart/{name}" for name in ("a.jpg", "b.jpg", "png_inside.JPG", "cmyk.jpeg")
    }


def test_the_report_has_one_line_per_kind_of_problem_however_their_details_differ(photos, prepare):
    jpeg = (photos / "wart" / "a.jpg").read_bytes()
    for number in (1, 2, 3):
        (photos / f"cut{number}.jpg").write_bytes(jpeg[: -100 * number])
    (photos / "scan.dcm").touch()
    lines = [line.strip() for line in prepare(photos).out.splitlines() if "problem:" in line]
    assert lines == [
        "problem: 3 x truncated or damaged (left out)",
        "problem: 1 x .dcm images cannot be read: convert to JPEG or PNG (left out)",
    ]


def test_strict_makes_any_problem_bad_input(damaged, prepare, tmp_path):
    outcome = prepare(damaged, "--strict")
    assert outcome.code == 2 and "--strict" in outcome.err and not (tmp_path / "data").exists()


def test_only_undecodable_images_are_bad_input(prepare, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jpg").touch()
    outcome = prepare(tmp_path / "raw")
    assert outcome.code == 2 and "none of 1 image could" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_drawn_split_is_grouped_recorded_and_can_be_left_out(photos, prepare, tmp_path):
    prepare(photos, "--test-fraction", 0.5, "--seed", 3)
    dataset = open_dataset(tmp_path / "data")
    assert dataset.info["split"] == "drawn by image (seed 3)"
    assert sorted(dataset.column("split")) == ["test", "test", "train", "train"]
    prepare(photos, "--test-fraction", 0, "--overwrite")
    again = open_dataset(tmp_path / "data")
    assert again.info["split"] == "none" and again.table["split"].null_count == 4


def test_a_split_and_folds_that_a_new_preparation_replaces_are_told(photos, prepare, dermssl, tmp_path):
    prepare(photos)
    drawn = ("--fractions", 0.5, 0.5, "--folds", 2, "--stratify", "dataset", "--seed", 9)
    assert dermssl("split", tmp_path / "data", *drawn).code == 0
    told = prepare(photos, "--overwrite", "--short-side", 64).out
    assert "replaced: split, drawn by image (seed 9); give `dermssl split` again" in told
    assert "replaced: folds, 2 by image (seed 9); give `dermssl split` again" in told
    assert "replaced" not in prepare(photos, "--overwrite").out


@pytest.mark.parametrize("seed", range(4))
def test_copies_in_another_file_format_are_drawn_into_one_split(photos, prepare, tmp_path, seed):
    for name in ("wart/a", "naevus/c"):
        Image.open(photos / f"{name}.jpg").save(photos / f"{name} copy.png")
    assert prepare(photos, "--test-fraction", 0.5, "--seed", seed).code == 0
    frame = open_dataset(tmp_path / "data").frame()
    assert frame["pixel_sha256"].nunique() == 4 and frame["split"].nunique() == 2
    assert frame.groupby("pixel_sha256")["split"].nunique().max() == 1 and not _problems(tmp_path / "data")


def test_copies_across_a_given_split_are_told(photos, prepare, tmp_path):
    for side in ("train", "test"):
        shutil.copytree(photos, tmp_path / "sides" / side)
        for jpg in (tmp_path / "sides" / side).glob("*/[bcé].jpg"):
            _photo(10 * ord(jpg.stem) + len(side)).save(jpg)
    jpg = tmp_path / "sides" / "train" / "wart" / "a.jpg"
    Image.open(jpg).save(jpg.with_suffix(".png"))
    jpg.unlink()
    assert prepare(tmp_path / "sides", "--strict").code == 2
    outcome = prepare(tmp_path / "sides")
    assert "1 x same pixels as an image in test: test/wart/a.jpg (kept: find" in outcome.out
    assert _problems(tmp_path / "data") == {"train/wart/a.png": "same pixels as an image in test: test/wart/a.jpg"}


def test_a_case_with_two_labels_is_reported(prepare, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = ["HAM_1,a,mel,histo,80,male,scalp", "HAM_1,b,nv,histo,80,male,scalp"]
    (raw / "HAM10000_metadata.csv").write_text(
        "lesion_id,image_id,dx,dx_type,age,sex,localization\n" + "\n".join(rows) + "\n"
    )
    for name in ("a", "b"):
        _photo().resize((90, 60 + ord(name))).save(raw / f"{name}.jpg")
    strict = prepare(raw, "--strict", source="ham10000")
    assert strict.code == 2 and "different labels" in strict.err and not list(tmp_path.glob(".*"))
    prepare(raw, source="ham10000")
    assert _problems(tmp_path / "data") == {"case ham10000/HAM_1": "images of one case have different labels of 'dx'"}


def test_files_that_cannot_be_decoded_join_no_patients_though_they_are_equal(prepare, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = ["file,who,dx"]
    for number in range(4):
        _photo(number).save(raw / f"good{number}.jpg")
        (raw / f"page{number}.jpg").write_bytes(b"<html>404 not found</html>")
        rows += [f"good{number}.jpg,P{number},nevus", f"page{number}.jpg,P{number},melanoma"]
    (raw / "t.csv").write_text("\n".join(rows))
    (raw / "columns.yaml").write_text(
        "{table: t.csv, columns: {file: file, patient_id: who, case_id: who}, targets: [dx]}"
    )
    assert prepare(raw, source="csv").code == 0
    frame = open_dataset(tmp_path / "data").frame()
    assert frame["group_id"].tolist() == [f"csv/P{number}" for number in range(4)]
    assert not any("different labels" in problem for problem in _problems(tmp_path / "data").values())


def test_a_label_of_no_declared_class_is_bad_input_before_anything_is_decoded(synthetic_raw, prepare, tmp_path):
    raw = shutil.copytree(synthetic_raw, tmp_path / "raw")
    table = (raw / "label.csv").read_text()
    (raw / "label.csv").write_text(table.replace("Eczema", "Ekzema"))
    outcome = prepare(raw, source="passion")
    assert outcome.code == 2 and "did you mean 'Eczema'" in outcome.err
    assert not list(tmp_path.glob(".*"))


def test_the_number_of_workers_changes_nothing(synthetic_raw, synthetic_dataset, dermssl, tmp_path):
    options = ("--root", synthetic_raw, "--out", tmp_path / "data", "--workers", 2)
    dermssl("prepare", "--source", "passion", *options)
    for name in ("manifest.parquet", "dataset.json", "problems.csv", "images-00000.arrow"):
        assert (tmp_path / "data" / name).read_bytes() == (synthetic_dataset / name).read_bytes(), name


def test_finished_shards_are_not_decoded_again_after_a_crash(photos, prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    decode_one, decoded = shards.decode_one, []

    def failing(file, **options):
        if len(decoded) == 3:
            raise RuntimeError("the power went out")
        decoded.append(file)
        return decode_one(file, **options)

    monkeypatch.setattr(shards, "decode_one", failing)
    assert prepare(photos).code == 1 and not (tmp_path / "data").exists()
    decoded.clear()
    monkeypatch.setattr(
        shards, "decode_one", lambda file, **options: decoded.append(file) or decode_one(file, **options)
    )
    assert prepare(photos).code == 0
    assert decoded == ["wart/a.jpg", "wart/b.jpg"]
    assert len(open_dataset(tmp_path / "data")) == 4 and not (tmp_path / ".data.work").exists()


def test_a_changed_file_is_decoded_again_after_a_crash(photos, prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    decode_one = shards.decode_one

    def failing(file, **options):
        if file.startswith("wart"):
            raise RuntimeError("the power went out")
        return decode_one(file, **options)

    monkeypatch.setattr(shards, "decode_one", failing)
    prepare(photos)
    _photo(77).save(photos / "naevus" / "c.jpg", quality=95)
    monkeypatch.setattr(shards, "decode_one", decode_one)
    prepare(photos)
    dataset = open_dataset(tmp_path / "data")
    assert dataset.column("pixel_sha256")[0] == pixel_hash(Image.open(photos / "naevus" / "c.jpg"))


@pytest.mark.parametrize(("changed", "value"), [("PIL.__version__", "0.9"), (f"{shards.__name__}.FORMATS", ["JPEG"])])
def test_work_of_other_decoders_is_not_gone_on_with(photos, monkeypatch, changed, value):
    before = shards._listing_hash(photos, ["naevus/c.jpg"], 384)
    monkeypatch.setattr(changed, value)
    assert shards._listing_hash(photos, ["naevus/c.jpg"], 384) != before


def test_work_on_files_that_may_be_readable_by_now_is_not_kept(photos):
    before = shards._listing_hash(photos, ["naevus/c.jpg"], 384)
    assert shards._listing_hash(photos, ["naevus/c.jpg"], 384) == before
    (photos / "naevus" / "c.jpg").chmod(0o640)
    assert shards._listing_hash(photos, ["naevus/c.jpg"], 384) != before


KILLED = """
import os, signal, sys
from dermssl.cli import main
from dermssl.prepare import shards
from dermssl.prepare.sources import known_overlaps
shards.SHARD_ROWS = 16
write = shards.write_parquet
def write_then_die(path, table):
    write(path, table)
    if "rows-00001" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
shards.write_parquet = write_then_die
main(sys.argv[1:])
"""


def test_a_run_killed_outright_goes_on_to_the_same_dataset(
    synthetic_raw, synthetic_dataset, dermssl, tmp_path, monkeypatch
):
    options = ["--source", "passion", "--root", str(synthetic_raw), "--out", str(tmp_path / "data"), "--workers", "1"]
    root = Path(shards.__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "prepare", *options], env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "data").exists()
    assert len(list((tmp_path / ".data.work").glob("rows-*.parquet"))) == 2
    monkeypatch.setattr(shards, "SHARD_ROWS", 16)
    assert dermssl("prepare", *options).code == 0
    first, again = open_dataset(synthetic_dataset), open_dataset(tmp_path / "data")
    assert again.table.equals(first.table)
    assert all(bytes(again.images.jpeg(row)) == bytes(first.images.jpeg(row)) for row in range(len(first)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_prepare_never_replaces_what_it_did_not_make(photos, prepare, tmp_path):
    outcome = prepare(photos, "--overwrite", out="raw")
    assert outcome.code == 2 and "dataset.json" in outcome.err and (photos / "wart" / "a.jpg").exists()
    assert prepare(photos).code == 0
    assert prepare(photos).code == 2
    assert prepare(photos, "--overwrite").code == 0
    (tmp_path / "data" / "notes.csv").write_text("mine")
    outcome = prepare(photos, "--overwrite")
    assert outcome.code == 2 and "notes.csv" in outcome.err and (tmp_path / "data" / "notes.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "passsion"], "did you mean 'passion'"),
        (["--root", "nowhere"], "nowhere is not a folder"),
        (["--source", "ham10000"], "HAM10000_metadata.csv"),
        (["--short-side", "small"], "--short-side"),
        (["--short-side", "0"], "--short-side"),
        (["--test-fraction", "1.5"], "--test-fraction"),
        (["--name", "a/b"], "--name"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(photos, prepare, tmp_path, arguments, message):
    outcome = prepare(photos, *arguments)
    assert outcome.code == 2 and message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_when_nothing_is_left_the_reasons_are_counted(photos, prepare):
    rows = [f"HAM_{number},nowhere_{number},mel,histo,80,male,scalp" for number in range(3)]
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
    (photos / "HAM10000_metadata.csv").write_text(header + "\n".join(rows) + "\n")
    outcome = prepare(photos, source="ham10000")
    assert outcome.code == 2 and "3 x named in the table but there is no such file (left out)" in outcome.err
    assert "4 x file without a row in the table (left out)" in outcome.err


def test_one_image_that_cannot_be_used_never_ends_the_run(photos, prepare, tmp_path):
    Image.new("L", (100_000, 1)).save(photos / "wart" / "row.png")
    Image.new("L", (1, 65_000)).save(photos / "wart" / "column.png")
    with (photos / "wart" / "sparse.jpg").open("wb") as file:
        file.truncate(100 * 2**30)
    os.mkfifo(photos / "wart" / "pipe.jpg")
    assert prepare(photos).code == 0 and len(open_dataset(tmp_path / "data")) == 4
    problems = _problems(tmp_path / "data")
    assert "too long and narrow: 1 x 65000" in problems["wart/column.png"] and "wart/row.png" in problems
    assert "too large" in problems["wart/sparse.jpg"] and problems["wart/pipe.jpg"] == "not a file"


def test_an_empty_folder_is_bad_input(prepare, tmp_path):
    (tmp_path / "raw").mkdir()
    outcome = prepare(tmp_path / "raw")
    assert outcome.code == 2 and "no image" in outcome.err


def test_the_json_report_holds_what_is_printed(damaged, prepare, tmp_path):
    prepare(damaged, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["images"] == 6 and len(report["problems"]) == 5
    assert report["targets"]["label"]["classes"] == ["naevus", "wart"]


def test_two_pooled_data_sets_of_one_name_are_refused(synthetic_dataset, photos, prepare, tmp_path):
    prepare(photos, "--name", "synthetic_passion")
    with pytest.raises(InputError, match="another --name"):
        open_datasets([str(synthetic_dataset), str(tmp_path / "data")])


def _prepared_as(source, photos, prepare, tmp_path):
    """A dataset folder that says it came from ``source``."""
    prepare(photos, "--name", source, out=source)
    info = json.loads((tmp_path / source / "dataset.json").read_text())
    overlaps = [] if info["synthetic"] else known_overlaps(source)
    info |= {"source": source, "overlaps": overlaps}
    (tmp_path / source / "dataset.json").write_text(json.dumps(info))
    return str(tmp_path / source)


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if "known to share images" in record.getMessage()]


def test_pooling_sets_known_to_share_images_warns_once_for_each_pair(photos, prepare, tmp_path, caplog):
    folders = [
        _prepared_as(name, photos, prepare, tmp_path) for name in ("ham10000", "isic2019", "bcn20000", "passion")
    ]
    open_datasets(folders)
    ham, isic, bcn, _ = folders
    pairs = [[folder for folder in folders if folder in line] for line in _warnings(caplog)]
    assert pairs == [[ham, isic], [isic, bcn]]


def test_a_synthetic_stand_in_overlaps_with_nothing(synthetic_dataset):
    assert open_dataset(synthetic_dataset).info["overlaps"] == []


@pytest.fixture
def marked(synthetic_raw, tmp_path):
    """A synthetic set whose files may be changed, with its mark."""
    return shutil.copytree(synthetic_raw, tmp_path / "marked")


def test_a_split_that_synth_drew_is_never_called_official(marked, prepare, tmp_path):
    assert "split, drawn by dermssl synth: train" in prepare(marked, source="passion").out
    assert open_dataset(tmp_path / "data").info["split"] == "drawn by dermssl synth"


def test_a_mark_that_was_left_beside_other_data_is_refused(marked, prepare, tmp_path):
    table, photo = marked / "label.csv", next((marked / "images").iterdir())
    for changed in (table, photo):
        before = changed.read_bytes()
        changed.write_bytes(before + b"\n")
        outcome = prepare(marked, source="passion")
        assert (
            outcome.code == 2
            and f"not {changed.relative_to(marked)}" in outcome.err
            and "delete the mark" in outcome.err
        )
        changed.write_bytes(before)
    shutil.copy(photo, photo.with_stem(photo.stem + "9"))
    outcome = prepare(marked, source="passion")
    assert outcome.code == 2 and "marks other data" in outcome.err and not (tmp_path / "data").exists()


@pytest.mark.parametrize("key", ["files", "labels", "version"])
def test_a_mark_without_one_of_its_keys_is_refused(marked, prepare, key):
    mark = json.loads((marked / "SYNTHETIC.json").read_text())
    del mark[key]
    (marked / "SYNTHETIC.json").write_text(json.dumps(mark))
    outcome = prepare(marked, source="passion")
    assert outcome.code == 2 and f"has no '{key}': make it again with `dermssl synth`" in outcome.err


def test_part_of_a_synthetic_set_is_still_synthetic(marked, prepare, tmp_path):
    next((marked / "images").iterdir()).unlink()
    assert prepare(marked, source="passion").code == 0
    assert open_dataset(tmp_path / "data").licence["id"] == "CC0-1.0"


def test_pooling_counts_the_pictures_that_two_sets_share_by_file_and_by_pixels(photos, prepare, tmp_path, caplog):
    prepare(photos, "--name", "one", out="one")
    (photos / "wart" / "b.jpg").unlink()
    _photo(9).save(photos / "wart" / "new.jpg")
    Image.open(photos / "naevus" / "c.jpg").save(photos / "naevus" / "c.png")
    (photos / "naevus" / "c.jpg").unlink()
    prepare(photos, "--name", "other", out="other")
    caplog.clear()
    sets = open_datasets([str(tmp_path / "one"), str(tmp_path / "other")])
    (said,) = caplog.messages
    assert f"3 images of {sets[1].folder} are in {sets[0].folder} too (2 the same file, 1 the same pixels" in said
    caplog.clear()
    open_datasets([str(tmp_path / "one")])
    assert not caplog.messages


@pytest.mark.parametrize("damage", ["manifest.parquet", "images-00000.arrow", "dataset.json"])
def test_a_damaged_dataset_folder_is_named_with_the_remedy(synthetic_dataset, tmp_path, damage):
    folder = shutil.copytree(synthetic_dataset, tmp_path / "data")
    (folder / damage).write_bytes((folder / damage).read_bytes()[:-30])
    with pytest.raises(InputError, match="dermssl prepare") as error:
        open_dataset(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(("name", "images", "groups"), [("ham10000", 40, 40), ("pad_ufes_20", 40, 40)])
def test_real_images_are_prepared(shared_data, tmp_path, prepare, name, images, groups):
    raw = tmp_path / "raw"
    raw.mkdir()
    table = next((shared_data / name).glob("*.csv"))
    column = {"ham10000": "image_id", "pad_ufes_20": "img_id"}[name]
    rows = pd.read_csv(table, dtype=str).drop_duplicates({"ham10000": "lesion_id", "pad_ufes_20": "patient_id"}[name])
    rows.iloc[:images].to_csv(raw / table.name, index=False)
    files = {path.stem: path for path in (shared_data / name).rglob("*.jpg")}
    for image in rows[column].iloc[:images]:
        shutil.copy(files[Path(image).stem], raw)
    assert prepare(raw, source=name).code == 0
    counts = open_dataset(tmp_path / "data").info["counts"]
    assert (counts["images"], counts["groups"]) == (images, groups)
