"""Each source reads the official layout, and survives the traps that its data set is known for."""

import zlib
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from dermssl.errors import InputError
from dermssl.prepare import sources
from dermssl.prepare.identity import identify
from dermssl.prepare.sources import NAMES, get_source, known_overlaps, read_source

PASSION_HEADER = "subject_id,country,age,sex,fitzpatrick,body_loc,impetig,conditions_PASSION\n"


def _colour(name):
    """Another one for every name, as equal files are copies."""
    return tuple(zlib.crc32(name.encode()).to_bytes(4, "big")[:3])


@pytest.fixture
def raw(tmp_path):
    """Write a raw data set: tables as text, images by name."""

    def make(tables, images):
        for name, text in tables.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        for name in images:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), _colour(name)).save(path, "JPEG")
        return tmp_path

    return make


def _problems(records):
    return {(problem.file, problem.problem) for problem in records.problems}


@pytest.fixture
def passion(raw):
    rows = [
        "AA1,Madagascar,7,m,3,hair; pelvic; arm,1.0,Eczema",
        "AA2,Guinea,85+,f,6,,0.0,Fungal",
        "AA3,Malawi,2,m,5,leg,0.0,Others",
        "AA3,Malawi,2,m,5,leg,0.0,Others",
        "AA4,Tanzania,2,m,5,leg,0.0,Scabies",
        "AA4,Tanzania,3,m,5,leg,0.0,Scabies",
        "AA5,Tanzania,2,m,5,leg,0.0,Scabies",
        ",Guinea,2,m,5,leg,0.0,Scabies",
    ]
    split = "subject_id,Split\nAA1,TRAIN\nAA2,TEST\nAA3,TRAIN\nAA4,TRAIN\nAA9,TEST\n"
    names = ["AA1_1", "AA1_2", "AA2_1", "AA3_1", "AA4_12", "AA7_1"]
    return raw(
        {"label.csv": PASSION_HEADER + "\n".join(rows), "PASSION_split.csv": split},
        [f"images/{name}.jpg" for name in names],
    )


def test_passion_joins_photos_to_patients_and_splits(passion):
    frame = read_source(get_source("passion"), passion).frame.set_index("file")
    first = frame.loc["images/AA1_2.jpg"]
    assert first["body_site"] == ["hair", "pelvic", "arm"] and first["impetigo"] == "impetigo"
    assert (first["patient_id"], first["split"], first["centre"]) == ("AA1", "train", "Madagascar")
    second = frame.loc["images/AA2_1.jpg"]
    assert second["age"] == 85 and second["body_site"] is None and second["fitzpatrick"] == 6
    assert frame.loc["images/AA3_1.jpg", "centre"] == "EAS" == frame.loc["images/AA4_12.jpg", "centre"]


def test_passion_reports_every_row_and_photo_that_has_no_partner(passion):
    assert _problems(read_source(get_source("passion"), passion)) == {
        ("subject AA3", "label row stands twice"),
        ("subject AA4", "two label rows that differ"),
        ("label row 9", "no subject_id"),
        ("subject AA9", "without a label row but in the split file (TEST)"),
        ("subject AA5", "no split in the split file"),
        ("subject AA5", "label row without a photo"),
        ("images/AA7_1.jpg", "photo of a subject without a label row"),
    }


def test_passion_accepts_the_file_name_of_its_own_readme(passion):
    (passion / "label.csv").rename(passion / "labels.csv")
    assert len(read_source(get_source("passion"), passion).frame) == 5


def test_passion_photos_of_one_name_are_one_photo_or_none(passion):
    (passion / "backup").mkdir()
    (passion / "backup" / "AA1_1.jpg").write_bytes((passion / "images" / "AA1_1.jpg").read_bytes())
    Image.new("RGB", (4, 4)).save(passion / "backup" / "AA2_1.jpg")
    records = read_source(get_source("passion"), passion)
    assert len(records.frame) == 4 and {
        ("AA2_1.jpg", "several different files have that name: keep one"),
        ("images/AA1_1.jpg", "byte-identical copy: backup/AA1_1.jpg"),
    } <= _problems(records)


def test_passion_without_a_split_file_says_what_will_be_done(passion):
    (passion / "PASSION_split.csv").unlink()
    records = read_source(get_source("passion"), passion)
    assert records.frame["split"].isna().all()
    assert ("PASSION_split.csv", "no official split file") in _problems(records)


def test_passion_reports_a_subject_whose_split_is_blank(passion):
    path = passion / "PASSION_split.csv"
    path.write_text(path.read_text().replace("AA1,TRAIN", "AA1,"))
    assert ("subject AA1", "no split in the split file") in _problems(read_source(get_source("passion"), passion))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("PASSION_split.csv", "AA9,TEST", "AA1,TEST", "subjects in two splits: AA1"),
        ("PASSION_split.csv", "AA1,TRAIN", "AA1,VAL", "Split holds"),
        ("label.csv", ",1.0,", ",2,", "impetig holds"),
        ("label.csv", "conditions_PASSION", "condition", "conditions_PASSION"),
    ],
)
def test_passion_tables_that_contradict_themselves_are_bad_input(passion, file, old, new, message):
    path = passion / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        read_source(get_source("passion"), passion)


def test_real_passion_split_has_exactly_two_orphans(shared_data, tmp_path):
    for name in ("label.csv", "PASSION_split.csv"):
        (tmp_path / name).write_bytes((shared_data / "passion" / name).read_bytes())
    (tmp_path / "images").mkdir()
    for subject in pd.read_csv(tmp_path / "label.csv")["subject_id"]:
        (tmp_path / "images" / f"{subject}_1.jpg").touch()
    records = read_source(get_source("passion"), tmp_path)
    assert sorted(problem.file for problem in records.problems) == ["subject AA00970254", "subject AA00970275"]
    assert records.frame["split"].value_counts().to_dict() == {"train": 1323, "test": 330}


def test_ham10000_keeps_lesions_together_and_finds_both_parts(raw):
    table = (
        "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "HAM_1,ISIC_1,mel,histo,80.0,male,scalp\nHAM_1,ISIC_2,mel,histo,80.0,male,scalp\n"
        "HAM_2,ISIC_3,nv,follow_up,,unknown,unknown\n"
    )
    names = [
        "HAM10000_images_part_1/ISIC_1.jpg",
        "HAM10000_images_part_2/ISIC_2.jpg",
        "HAM10000_images_part_2/ISIC_3.jpg",
    ]
    records = read_source(get_source("ham10000"), raw({"HAM10000_metadata": table}, names))
    assert records.frame["lesion_id"].tolist() == ["HAM_1", "HAM_1", "HAM_2"] and not records.problems
    last = records.frame.iloc[2]
    assert last[["age", "sex", "body_site"]].isna().all()


def test_pad_lesions_are_unique_only_within_a_patient_and_files_are_found_by_stem(raw):
    table = (
        "patient_id,lesion_id,age,gender,fitspatrick,region,diagnostic,img_id,biopsed\n"
        "PAT_1,7,8,FEMALE,2.0,ARM,NEV,PAT_1_7_1.png,False\nPAT_2,7,77,,,FACE,ACK,PAT_2_7_2.png,True\n"
    )
    records = read_source(
        get_source("pad_ufes_20"), raw({"metadata.csv": table}, ["images/PAT_1_7_1.jpg", "more/PAT_2_7_2.JPG"])
    )
    assert records.frame["lesion_id"].tolist() == ["PAT_1/7", "PAT_2/7"] and not records.problems
    assert records.frame["fitzpatrick"].tolist()[0] == 2 and pd.isna(records.frame["fitzpatrick"].tolist()[1])
    assert records.frame["biopsed"].tolist() == [False, True]


def test_class_folders_give_labels_and_a_flat_folder_gives_none(raw):
    root = raw({}, ["wart/1.jpg", "naevus/deep/1.jpg"])
    records = read_source(get_source("folder"), root)
    assert dict(zip(records.frame["file"], records.frame["label"], strict=True)) == {
        "naevus/deep/1.jpg": "naevus",
        "wart/1.jpg": "wart",
    }
    assert records.targets["label"].classes == ("naevus", "wart")
    Image.new("RGB", (4, 4)).save(root / "loose.jpg")
    assert not read_source(get_source("folder"), root).targets


def _labelled(root):
    records = read_source(get_source("folder"), root)
    columns = [name for name in ("label", "split") if name in records.frame]
    return records.frame[columns].apply(tuple, axis=1).tolist(), records


@pytest.mark.parametrize(
    "pattern", ["{split}/{label}/{n}.jpg", "{label}/{split}/{n}.jpg", "all/{split}/{label}/{n}.jpg"]
)
def test_folders_called_train_and_test_are_the_split_and_not_the_classes(raw, pattern):
    rows = [("naevus", "Test"), ("naevus", "Train"), ("wart", "Test"), ("wart", "Train")]
    root = raw({}, [pattern.format(label=label, split=split, n=label + split) for label, split in rows])
    found, records = _labelled(root)
    assert sorted(found) == [(label, split.lower()) for label, split in rows]
    assert records.targets["label"].classes == ("naevus", "wart")
    assert any("Test, Train" in note for note in records.notes) and any("naevus, wart" in n for n in records.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("training_set", "validation", "test set"),
        ("1_train", "evaluation", "03_holdout"),
        ("train_dir", "val_dir", "test_dir"),
        ("X_train", "X_dev", "X_test"),
        ("ISIC2018_Training_Input", "ISIC2018_Validation_Input", "ISIC2018_Test_Input"),
        ("trainset80", "validset10", "testset10"),
    ],
)
def test_split_folders_are_known_by_their_usual_names(raw, names):
    found, _ = _labelled(raw({}, [f"{name}/x{number}.jpg" for number, name in enumerate(names)]))
    assert sorted(found) == [("test",), ("train",), ("val",)]


def test_test_images_without_class_folders_do_not_take_the_labels_of_the_others(raw):
    found, records = _labelled(raw({}, ["train/wart/1.jpg", "train/scar/2.jpg", "test/3.jpg", "extra/wart/4.jpg"]))
    assert found == [("wart", None), (None, "test"), ("scar", "train"), ("wart", "train")]
    assert {"images in no folder of a split, kept without one: 1"} < set(records.notes)
    assert "images in no class folder, kept without a label: 1" in records.notes


def test_one_word_of_a_split_among_class_folders_is_a_class(raw):
    found, _ = _labelled(raw({}, ["patch test/1.jpg", "control/2.jpg"]))
    assert found == [("control", None), ("patch test", None)]


def test_a_folder_above_the_class_folders_is_skipped_and_reported(raw):
    found, records = _labelled(raw({}, ["images/naevus/1.jpg", "images/wart/2.jpg"]))
    assert [label for label, _ in found] == ["naevus", "wart"]
    assert "all images lie in the folder images, which is skipped" in records.notes


def test_classes_of_both_sides_are_one_however_their_folders_are_written(raw):
    found, records = _labelled(raw({}, ["train/Lésion/1.jpg", "test/le\u0301sion /2.jpg", "train/scar/3.jpg"]))
    assert len(records.targets["label"].classes) == 2 and len(found) == 3


def test_why_there_are_no_labels_is_said(raw):
    _, records = _labelled(raw({}, ["naevus/1.jpg", "wart/2.jpg", "loose.jpg"]))
    assert not records.targets and "loose.jpg" in records.notes[0]


@pytest.fixture
def copied(raw, tmp_path):
    """A raw folder, all of whose files are copies of one image."""

    def make(*names):
        raw({}, names)
        for name in names[1:]:
            (tmp_path / name).write_bytes((tmp_path / names[0]).read_bytes())
        return read_source(get_source("folder"), tmp_path)

    return make


def test_copies_of_one_name_in_one_class_are_one_image(copied):
    rows = copied("wart/1.jpg", "wart/again/1.jpg")
    assert rows.frame["file"].tolist() == ["wart/1.jpg"]
    assert [(p.file, p.action) for p in rows.problems] == [("wart/again/1.jpg", "one image kept")]


def test_copies_in_two_classes_are_told_and_never_parted(copied, tmp_path):
    rows = copied("wart/1.jpg", "scar/7.jpg")
    assert [(p.file, p.problem, p.action) for p in rows.problems] == [
        ("wart/1.jpg", "byte-identical copy: scar/7.jpg", "kept in one group")
    ]
    grouped, _ = identify(rows.frame, "mine", get_source("folder"))
    assert len(grouped) == 2 and grouped["group_id"].nunique() == 1


def test_of_copies_in_train_and_test_the_one_in_test_stays(copied):
    rows = copied("train/wart/1.jpg", "test/scar/2.jpg", "train/scar/3.jpg")
    assert rows.frame["file"].tolist() == ["test/scar/2.jpg"]
    assert {(p.file, p.action) for p in rows.problems} == {
        (f"train/{name}", "left out, as the other lies in test") for name in ("wart/1.jpg", "scar/3.jpg")
    }


def test_an_unknown_source_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'ham10000'"):
        get_source("HAM1000")


def test_every_file_but_the_command_is_a_source():
    files = {path.stem for path in Path(sources.__file__).parent.glob("*.py")}
    assert set(NAMES) == files - {"__init__", sources.COMMAND}


def test_overlaps_hold_both_ways_and_name_known_sources():
    assert "ham10000" in known_overlaps("milk10k") and "milk10k" in known_overlaps("ham10000")
    assert "fitzpatrick17k" in known_overlaps("ddi") and "bcn20000" not in known_overlaps("ham10000")
    assert known_overlaps("isic2020") == ["isic2020"], "two editions, each of which may be prepared"
    assert {other for name in NAMES for other in get_source(name).overlaps} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_states_its_terms_units_and_targets(name, tmp_path):
    source = get_source(name)
    assert source.name == name and source.where and source.layout
    assert source.citation or source.licence == "unknown"
    with pytest.raises(InputError, match=str(tmp_path)):
        read_source(source, tmp_path)
