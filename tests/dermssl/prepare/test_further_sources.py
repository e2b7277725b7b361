"""The data sets with their own habits: one-hot labels, two tables, pairs of views, odd scales of skin tone."""

import json
import zlib
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError
from dermssl.prepare.identity import identify
from dermssl.prepare.sources import get_source, read_source


def _colour(name):
    """Another one for every name, as equal files are copies."""
    return tuple(zlib.crc32(name.encode()).to_bytes(4, "big")[:3])


@pytest.fixture
def raw(tmp_path):
    """Write a raw data set: tables as text, images by name."""

    def make(tables, images):
        for name, text in tables.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), _colour(name)).save(tmp_path / name)
        return tmp_path

    return make


def _read(name, root):
    records = read_source(get_source(name), root)
    return records.frame.set_index("file"), {(p.file, p.problem) for p in records.problems}, records


ISIC2019 = {
    "ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
    "ISIC_1,0.0,1.0,0,0,0,0,0,0,0\nISIC_2_downsampled,1,0,0,0,0,0,0,0,0\nISIC_3,1,1,0,0,0,0,0,0,0\n",
    "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,gender\n"
    "ISIC_1,55,anterior torso,,female\nISIC_2_downsampled,30,,BCN_7,male\nISIC_3,,,,\n",
}


def test_isic2019_reads_one_hot_labels_and_downsampled_names(raw):
    names = [f"ISIC_2019_Training_Input/{name}.jpg" for name in ("ISIC_1", "ISIC_2_downsampled", "ISIC_3")]
    frame, problems, _ = _read("isic2019", raw(ISIC2019, names))
    assert frame["diagnosis"].tolist()[:2] == ["NV", "MEL"] and pd.isna(frame["diagnosis"].iloc[2])
    assert frame["sex"].tolist()[:2] == ["female", "male"] and frame["downsampled"].tolist() == [False, True, False]
    assert problems == {("ISIC_3", "2 classes marked in the label table")}


def test_isic2019_images_without_a_lesion_id_are_not_thrown_into_one_group(raw):
    frame, _, _ = _read("isic2019", raw(ISIC2019, ["ISIC_1.jpg", "ISIC_2_downsampled.jpg", "ISIC_3.jpg"]))
    rows, _ = identify(frame.reset_index(), "isic2019", get_source("isic2019"))
    assert rows["group_id"].tolist() == ["isic2019/ISIC_1", "isic2019/BCN_7", "isic2019/ISIC_3"]
    assert rows["case_id"].tolist() == rows["group_id"].tolist()


def test_isic2019_rows_that_differ_are_reported_and_the_first_one_counts(raw):
    tables = {
        name: text + text.splitlines()[2].replace("1,0,0", "0,1,0").replace("30", "31") + "\n"
        for name, text in ISIC2019.items()
    }
    frame, problems, _ = _read("isic2019", raw(tables, ["ISIC_2_downsampled.jpg"]))
    assert frame["diagnosis"].tolist() == ["MEL"] and frame["age"].tolist() == [30]
    assert {("image ISIC_2_downsampled", f"two {rows} rows that differ") for rows in ("label", "metadata")} < problems


ISIC2020 = (
    "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
    "ISIC_1,IP_1,IL_1,male,45,head/neck,unknown,benign,0\nISIC_2,IP_2,IL_2,female,45,torso,melanoma,malignant,1\n"
)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("ISIC_2020_Training_Duplicates.csv", "image_name_1,image_name_2"),
        ("2020_Challenge_duplicates.csv", "ISIC_id,ISIC_id_paired"),
    ],
)
def test_isic2020_leaves_out_the_second_of_each_known_pair(raw, name, columns):
    tables = {"ISIC_2020_Training_GroundTruth_v2.csv": ISIC2020, name: f"{columns}\nISIC_1,ISIC_2\nISIC_2,\n"}
    frame, problems, _ = _read("isic2020", raw(tables, ["train/ISIC_1.jpg", "train/ISIC_2.jpg"]))
    assert list(frame.index) == ["train/ISIC_1.jpg"] and pd.isna(frame["diagnosis"].iloc[0])
    assert problems == {("train/ISIC_2.jpg", "listed as a duplicate of another image")}


def test_isic2020_refuses_a_list_of_pairs_that_it_cannot_read(raw):
    tables = {
        "ISIC_2020_Training_GroundTruth_v2.csv": ISIC2020,
        "ISIC_2020_Training_Duplicates.csv": "image_name_1,image_2\nISIC_1,ISIC_2\n",
    }
    with pytest.raises(InputError, match="no column 'image_name_2'"):
        _read("isic2020", raw(tables, ["train/ISIC_1.jpg", "train/ISIC_2.jpg"]))


def test_isic2020_keeps_one_image_of_a_picture_that_is_listed_in_a_chain_of_pairs(raw):
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
    tables = {
        "ISIC_2020_Training_GroundTruth.csv": header
        + "".join(f"ISIC_{number},IP_{number},male,45,torso,,benign,0\n" for number in range(6)),
        "ISIC_2020_Training_Duplicates.csv": "image_name_1,image_name_2\nISIC_1,ISIC_2\nISIC_2,ISIC_3\nISIC_9,ISIC_4\n",
    }
    frame, _, _ = _read("isic2020", raw(tables, [f"train/ISIC_{number}.jpg" for number in range(6)]))
    assert list(frame.index) == [f"train/ISIC_{number}.jpg" for number in (0, 1, 4, 5)], "9 is not there, so 4 stays"


def test_siim_has_the_same_patients_without_lesions(raw):
    table = (
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
        "ISIC_1,IP_1,male,45.0,head/neck,unknown,benign,0\nISIC_2,IP_1,,,,melanoma,malignant,1\n"
    )
    frame, _, _ = _read("isic2020", raw({"train.csv": table}, ["jpeg/train/ISIC_1.jpg", "jpeg/train/ISIC_2.jpg"]))
    assert frame["patient_id"].tolist() == ["IP_1", "IP_1"] and frame["lesion_id"].isna().all()
    assert frame["malignancy"].tolist() == ["benign", "malignant"]


def test_isic2024_does_not_carry_the_columns_that_state_the_label(raw):
    table = (
        "isic_id,target,patient_id,age_approx,sex,anatom_site_general,iddx_full,mel_thick_mm,lesion_id\n"
        "ISIC_1,1,IP_1,60,male,head/neck,Malignant::Melanoma,0.5,IL_1\nISIC_2,0,IP_1,60,male,,Benign,,\n"
    )
    frame, problems, _ = _read("isic2024", raw({"train-metadata.csv": table}, ["image/ISIC_1.jpg", "image/ISIC_2.jpg"]))
    assert frame["malignancy"].tolist() == ["malignant", "benign"] and not problems
    assert not [name for name in frame if name.startswith(("iddx", "mel_"))]


def test_milk10k_labels_both_views_of_a_lesion_and_keeps_its_own_tone_scale(raw):
    tables = {
        "MILK10k_Training_Metadata.csv": "lesion_id,image_type,isic_id,attribution,copyright_license,"
        "image_manipulation,age_approx,sex,skin_tone_class,site\n"
        "IL_1,clinical: close-up,ISIC_1,MILK,CC-BY-NC,altered,70,male,1,trunk\n"
        "IL_1,dermoscopic,ISIC_2,MILK,CC-BY-NC,instrument only,70,male,1,trunk\n",
        "MILK10k_Training_GroundTruth.csv": "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
        "IL_1,0.0,1.0,0,0,0,0,0,0,0,0,0\n",
    }
    frame, problems, _ = _read("milk10k", raw(tables, ["IL_1/ISIC_1.jpg", "IL_1/ISIC_2.jpg"]))
    assert frame["modality"].tolist() == ["clinical", "dermoscopic"] and frame["diagnosis"].tolist() == ["BCC", "BCC"]
    assert set(frame["skin_tone_scale"]) == {"milk10k"} and "fitzpatrick" not in frame and not problems


def test_milk10k_reports_a_lesion_without_a_label(raw):
    tables = {
        "MILK10k_Training_Metadata.csv": "lesion_id,image_type,isic_id,age_approx,sex,skin_tone_class,site\n"
        "IL_9,dermoscopic,ISIC_1,70,male,1,trunk\n",
        "MILK10k_Training_GroundTruth.csv": "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
        "IL_1,0.0,1.0,0,0,0,0,0,0,0,0,0\n",
    }
    frame, problems, _ = _read("milk10k", raw(tables, ["IL_9/ISIC_1.jpg"]))
    assert frame["diagnosis"].isna().all() and problems == {("lesion IL_9", "no row in the label table")}


def test_bcn20000_takes_classes_from_its_table_and_a_split_only_where_there_are_two_sides(raw):
    header = "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split\n"
    rows = "BCN_1.jpg,55,anterior torso,MEL,BCN_7,2012-05-16,male,train\nBCN_2.jpg,55,,NV,,2012-05-16,male,train\n"
    names = ["bcn_20k_train/BCN_1.jpg", "bcn_20k_train/BCN_2.jpg"]
    frame, _, source = _read("bcn20000", raw({"bcn_20k_train.csv": header + rows}, names))
    assert frame["split"].isna().all() and source.targets["diagnosis"].classes == ("MEL", "NV")
    frame, _, _ = _read(
        "bcn20000", raw({"bcn_20k_train.csv": header + rows.replace("male,train\nBCN_2", "male,test\nBCN_2")}, [])
    )
    assert frame["split"].tolist() == ["test", "train"]


DERM7PT = {
    "release_v0/meta/meta.csv": "case_num,diagnosis,clinic,derm,location,sex,case_id\n"
    "1,melanoma (in situ),NEL/a.JPG,NEL/b.JPG,back,female,\n2,clark nevus,NEL/c.jpg,NEL/d.jpg,head neck,male,\n"
    "3,lentigo,NEL/e.jpg,NEL/f.jpg,,,\n",
    "release_v0/meta/train_indexes.csv": "indexes\n2\n",
    "release_v0/meta/valid_indexes.csv": "indexes\n0\n",
    "release_v0/meta/test_indexes.csv": "indexes\n1\n",
}


def test_derm7pt_gives_two_views_per_case_with_the_official_splits(raw):
    names = [f"release_v0/images/NEL/{name}.jpg" for name in "abcdef"]
    frame, problems, source = _read("derm7pt", raw(DERM7PT, names))
    assert not problems and frame["case_id"].tolist() == ["1", "1", "2", "2", "3", "3"]
    assert frame["split"].tolist() == ["val", "val", "test", "test", "train", "train"]
    assert frame["diagnosis_group"].tolist() == ["MEL", "MEL", "NEV", "NEV", "MISC", "MISC"]
    assert frame["modality"].tolist() == ["clinical", "dermoscopic"] * 3
    assert source.targets["diagnosis"].classes == ("clark nevus", "lentigo", "melanoma (in situ)")


@pytest.mark.parametrize(
    ("row", "message"),
    [("7", "'7' is no row of meta.csv, which has 3"), ("0", "row 0 of meta.csv lies in val too")],
)
def test_derm7pt_refuses_a_split_that_does_not_fit_its_table(raw, row, message):
    root = raw(DERM7PT | {"release_v0/meta/test_indexes.csv": f"indexes\n{row}\n"}, [])
    with pytest.raises(InputError, match=f"test_indexes.csv: {message}"):
        read_source(get_source("derm7pt"), root)


def test_fitzpatrick17k_knows_no_type_where_the_scale_says_minus_one(raw):
    table = (
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,url_alphanum\n"
        "5e82,3,3,psoriasis,inflammatory,non-neoplastic,,http://a,a\nfa29,-1,-1,scabies,inflammatory,non-neoplastic,,,\n"
    )
    frame, problems, source = _read("fitzpatrick17k", raw({"fitzpatrick17k.csv": table}, ["5e82.jpg", "fa29.jpg"]))
    assert frame.loc["5e82.jpg", "fitzpatrick"] == 3 and pd.isna(frame.loc["fa29.jpg", "fitzpatrick"])
    assert source.targets["label"].classes == ("psoriasis", "scabies") and not problems


def test_ddi_tones_are_pairs_and_never_become_a_single_type(raw):
    table = (
        ",DDI_ID,DDI_file,skin_tone,malignant,disease\n0,1,000001.png,56,True,melanoma\n1,2,000002.png,12,False,wart\n"
    )
    frame, _, source = _read("ddi", raw({"ddi_metadata.csv": table}, ["000001.png", "000002.png"]))
    assert frame["tone_group"].tolist() == ["V-VI", "I-II"] and "fitzpatrick" not in frame
    assert frame["malignancy"].tolist() == ["malignant", "benign"]
    assert source.targets["disease"].classes == ("melanoma", "wart")


def test_scin_takes_the_heaviest_condition_and_one_row_per_photo(raw):
    tables = {
        "scin_cases.csv": "case_id,image_1_path,image_2_path,image_3_path,sex_at_birth,fitzpatrick_skin_type,"
        "body_parts_arm,body_parts_head_or_neck\n"
        "-12,dataset/images/-1.png,dataset/images/2.png,,FEMALE,FST4,YES,\n7,dataset/images/3.png,,,,NONE_SELECTED,,\n",
        "scin_labels.csv": "case_id,weighted_skin_condition_label,monk_skin_tone_label_us\n"
        "-12,\"{'Eczema': 0.33, 'Acne': 0.66}\",6\n7,{},\n",
    }
    names = [f"dataset/images/{name}.png" for name in ("-1", "2", "3")]
    frame, problems, source = _read("scin", raw(tables, names))
    first = frame.loc["dataset/images/-1.png"]
    assert (first["condition"], first["case_id"], first["fitzpatrick"], first["body_site"]) == (
        "Acne",
        "-12",
        4,
        ["arm"],
    )
    assert (first["skin_tone"], first["skin_tone_scale"]) == ("6", "monk")
    assert frame.loc["dataset/images/3.png", ["condition", "fitzpatrick", "skin_tone_scale"]].isna().all()
    assert source.targets["condition"].classes == ("Acne",) and not problems


def test_scin_reports_labels_that_cannot_be_read_or_that_differ(raw):
    header = "case_id,image_1_path,image_2_path,image_3_path,sex_at_birth,fitzpatrick_skin_type"
    cases = f"{header}\n-9,a.png,,,,\n-12,b.png,,,,\n"
    labels = "case_id,weighted_skin_condition_label\n-9,{'Acne'\n-12,{'Acne': 1}\n-12,{'Eczema': 1}\n"
    frame, problems, _ = _read("scin", raw({"scin_cases.csv": cases, "scin_labels.csv": labels}, ["a.png", "b.png"]))
    assert frame["case_id"].tolist() == ["-9", "-12"] and frame["condition"].tolist() == [None, "Acne"]
    assert {file for file, _ in problems} == {"case -12", "column weighted_skin_condition_label"}


COLUMNS = """
table: my.csv
licence: CC-BY-4.0
citation: |
  Me,
  here.
columns: {file: photo, patient_id: who, fitzpatrick: type, body_site: where, split: part}
targets: [finding]
"""
MY = "photo;who;type;where;part;finding;part2\n1.jpg;007;3;arm; leg;TRAIN;wart;\n2.jpg;008;-1;;test;naevus;?\n"


def test_any_table_can_be_described_by_a_few_lines_of_yaml(raw, dermssl, tmp_path):
    root = raw(
        {"raw/columns.yaml": COLUMNS, "raw/my.csv": MY.replace("arm; leg", '"arm; leg"')}, ["raw/1.jpg", "raw/2.jpg"]
    )
    options = ("--root", root / "raw", "--out", tmp_path / "data", "--name", "mine", "--workers", 1)
    assert dermssl("prepare", "--source", "csv", *options).code == 0
    dataset = open_dataset(tmp_path / "data")
    frame = dataset.frame()
    assert frame["group_id"].tolist() == ["mine/007", "mine/008"] and frame["split"].tolist() == ["train", "test"]
    assert list(frame["body_site"].iloc[0]) == ["arm", "leg"] and frame["fitzpatrick"].iloc[0] == 3
    assert dataset.targets["finding"].classes == ("naevus", "wart")
    assert (
        dataset.licence["attribution"] == "Me, here."
        and dataset.licence["id"] == "CC-BY-4.0"
        and dataset.info["patient_key"]
    )
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["split"] == "official"


def test_class_folders_get_the_licence_that_the_command_names(raw, dermssl, tmp_path):
    folder = raw({}, ["photos/a/1.jpg", "photos/b/2.jpg"]) / "photos"
    options = ("--source", "folder", "--root", folder, "--out", tmp_path / "data", "--workers", 1)
    assert dermssl("prepare", *options, "--licence", "CC-BY-4.0", "--citation", "Me, here.").code == 0
    licence = open_dataset(tmp_path / "data").licence
    assert (licence["id"], licence["attribution"], licence["redistribution"]) == ("CC-BY-4.0", "Me, here.", True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("CC0-1.0", "--licence is for data that have none, but their licence is 'CC-BY-4.0': leave it out"),
        ("CC-BY", "--licence CC-BY: did you mean 'CC-BY-4.0'"),
    ],
)
def test_a_licence_that_contradicts_the_table_or_is_unknown_is_refused(raw, dermssl, tmp_path, option, message):
    root = raw({"raw/columns.yaml": COLUMNS, "raw/my.csv": MY.replace("arm; leg", "arm")}, ["raw/1.jpg", "raw/2.jpg"])
    options = ("--root", root / "raw", "--out", tmp_path / "data", "--name", "mine", "--workers", 1)
    refused = dermssl("prepare", "--source", "csv", *options, "--licence", option)
    assert refused.code == 2 and message in refused.err and not (tmp_path / "data").exists()


def test_a_table_without_labels_and_split_is_data_for_pretraining(raw, dermssl, tmp_path):
    tables = {"raw/columns.yaml": "table: t.csv\ncolumns: {file: photo}", "raw/t.csv": "photo\n1.jpg\n2.jpg\n"}
    root = raw(tables, ["raw/1.jpg", "raw/2.jpg"])
    options = ("--root", root / "raw", "--out", tmp_path / "data", "--name", "mine", "--workers", 1)
    assert "split, none: none 2 images" in dermssl("prepare", "--source", "csv", *options).out
    assert open_dataset(tmp_path / "data").frame()["split"].isna().all()


def test_a_copy_under_another_patient_is_told_and_both_patients_are_counted(raw, dermssl, tmp_path):
    table = "photo,who\n1.jpg,007\n2.jpg,008\n3.jpg,008\n4.jpg,009\n"
    layout = "table: t.csv\ncolumns: {file: photo, patient_id: who}"
    root = raw({"raw/columns.yaml": layout, "raw/t.csv": table}, [f"raw/{number}.jpg" for number in range(1, 5)])
    for copy in ("2.jpg", "3.jpg"):
        (root / "raw" / copy).write_bytes((root / "raw" / "1.jpg").read_bytes())
    options = ("--root", root / "raw", "--out", tmp_path / "data", "--name", "mine", "--workers", 1)
    out = dermssl("prepare", "--source", "csv", *options).out
    assert "4 images of 3 patients in 2 groups" in out
    assert "2 x byte-identical copy under another patient: 1.jpg (kept in one group)" in out


@pytest.mark.parametrize(("stages", "classes"), [("0,1,-9", ("0", "1")), ("0,-3,-9", ("-3", "-9", "0"))])
def test_a_number_that_counts_as_no_label_is_told(raw, stages, classes):
    rows = [f"{number}.jpg,{stage}" for number, stage in enumerate(stages.split(","))]
    layout = "table: t.csv\ncolumns: {file: photo}\ntargets: [stage]"
    tables = {"columns.yaml": layout, "t.csv": "\n".join(["photo,stage", *rows])}
    records = read_source(get_source("csv"), raw(tables, [f"{number}.jpg" for number in range(3)]))
    assert records.targets["stage"].classes == classes
    assert [note[:22] for note in records.notes] == ["1 rows of stage hold -"] * (3 - len(classes))


def test_a_word_that_counts_as_no_label_is_told(raw):
    layout = "table: t.csv\ncolumns: {file: photo}\ntargets: [finding]"
    tables = {"columns.yaml": layout, "t.csv": "photo,finding\n0.jpg,wart\n1.jpg,None\n2.jpg,None\n3.jpg,\n"}
    records = read_source(get_source("csv"), raw(tables, [f"{number}.jpg" for number in range(4)]))
    assert records.targets["finding"].classes == ("wart",)
    (note,) = records.notes
    assert note.startswith("finding holds 'None' (2 rows), which means missing")


@pytest.mark.parametrize(("classes", "positive"), [("lump,cancer", "cancer"), ("0,1", 1), ("1,0", 0)])
def test_a_target_of_two_classes_may_have_a_positive_one(raw, classes, positive):
    rows = "".join(f"{number}.jpg,{label}\n" for number, label in enumerate(classes.split(",")))
    layout = f"table: t.csv\ncolumns: {{file: photo}}\ntargets: [finding]\npositive: {{finding: {positive}}}"
    root = raw({"columns.yaml": layout, "t.csv": f"photo,finding\n{rows}"}, ["0.jpg", "1.jpg"])
    target = read_source(get_source("csv"), root).targets["finding"]
    assert target.classes == tuple(classes.split(","))  # the positive class stands last
    assert (target.kind, target.positive) == ("binary", str(positive))


@pytest.mark.parametrize(
    ("found", "positive", "classes"),
    [("no", "'yes'", ("no", "yes")), ("lump", "cancer", ("lump", "cancer")), ("yes", "yes", ("yes",))],
)
def test_a_table_without_one_of_the_two_classes_may_name_the_positive_one(raw, found, positive, classes):
    layout = f"table: t.csv\ncolumns: {{file: photo}}\ntargets: [cancer]\npositive: {{cancer: {positive}}}"
    root = raw({"columns.yaml": layout, "t.csv": f"photo,cancer\n0.jpg,{found}\n"}, ["0.jpg"])
    target = read_source(get_source("csv"), root).targets["cancer"]
    assert (target.classes, target.kind, target.positive) == (classes, "binary", positive.strip("'"))


def test_a_positive_class_that_no_row_has_must_stand_in_quotes_if_yaml_reads_it_otherwise(raw):
    layout = "table: t.csv\ncolumns: {file: photo}\ntargets: [cancer]\npositive: {cancer: yes}"
    root = raw({"columns.yaml": layout, "t.csv": "photo,cancer\n0.jpg,no\n"}, ["0.jpg"])
    with pytest.raises(InputError, match="cancer has 'no': write the other one in quotes"):
        read_source(get_source("csv"), root)


@pytest.mark.parametrize(
    ("classes", "positive"), [("no,yes", "yes"), ("Yes,No", "no"), ("off,on", "on"), ("F,True", "true")]
)
def test_a_positive_class_that_yaml_reads_as_true_or_false_needs_no_quotes(raw, classes, positive):
    rows = "".join(f"{number}.jpg,{label}\n" for number, label in enumerate(classes.split(",")))
    layout = f"table: t.csv\ncolumns: {{file: photo}}\ntargets: [cancer]\npositive: {{cancer: {positive}}}"
    root = raw({"columns.yaml": layout, "t.csv": f"photo,cancer\n{rows}"}, ["0.jpg", "1.jpg"])
    assert read_source(get_source("csv"), root).targets["cancer"].classes == tuple(classes.split(","))


def test_a_target_may_have_another_name_than_its_column(raw):
    layout = "table: t.csv\ncolumns: {file: Bild}\ntargets: {cancer: Krebs, sex_found: sex}\npositive: {cancer: ja}"
    table = "Bild,Krebs,sex\n0.jpg,ja,f\n1.jpg,nein,f\n2.jpg,None,m\n"
    records = read_source(get_source("csv"), raw({"columns.yaml": layout, "t.csv": table}, ["0.jpg", "1.jpg", "2.jpg"]))
    assert {name: target.classes for name, target in records.targets.items()} == {
        "cancer": ("nein", "ja"),
        "sex_found": ("f", "m"),
    }
    assert records.notes[0].startswith("cancer holds 'None' (1 rows), which means missing")


@pytest.mark.parametrize("column", ["raw", "table", "optional"])
def test_a_target_may_have_any_other_name(raw, column):
    layout = f"table: t.csv\ncolumns: {{file: photo}}\ntargets: [{column}]"
    root = raw({"columns.yaml": layout, "t.csv": f"photo,{column}\n1.jpg,wart\n"}, ["1.jpg"])
    assert read_source(get_source("csv"), root).targets[column].classes == ("wart",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("columns:", "colums:", "unknown key 'colums'; did you mean 'columns'"),
        ("patient_id:", "patient:", "unknown column 'patient'; did you mean 'patient_id'"),
        ("{file: photo, ", "{finding: finding, file: photo, ", "Labels stand in `targets`"),
        ("{file: photo, ", "{", "at least the column of the `file`"),
        ("who", "whom", "no column 'whom'; did you mean 'who'"),
        ("[finding]", "[sex]", "target 'sex' has the name of a manifest column"),
        ("[finding]", "[width]", "target 'width' has the name of a manifest column"),
        ("[finding]", "[fold]", "target 'fold' has the name of a manifest column"),
        ("[finding]", "[side]", "target 'side' has the name of a manifest column"),
        ("[finding]", "[images]", "target 'images' has the name of a manifest column"),
        ("CC-BY-4.0", "CC-BY", "unknown licence 'CC-BY'"),
        ("my.csv", "your.csv", "holds no your.csv"),
        ("[finding]", "[part2]", "target 'part2' has no label in my.csv: leave it out"),
        ("[finding]", "[finding]\npositive: wart", "`positive` must give classes of `targets`"),
        ("[finding]", "[finding]\npositive: {found: wart}", "`positive` must give classes of `targets`"),
        ("[finding]", "{finding: findin}", "no column 'findin'; did you mean 'finding'"),
        ("[finding]", "finding", "`targets` must list columns of the table"),
        ("[finding]", "[finding]\npositive: {finding: yes}", "one of two classes, but finding has 'naevus', 'wart'"),
    ],
)
def test_a_mistake_in_that_yaml_is_named(raw, old, new, message):
    root = raw({"columns.yaml": COLUMNS.replace(old, new), "my.csv": MY.replace("arm; leg", "arm")}, ["1.jpg"])
    with pytest.raises(InputError, match=message):
        read_source(get_source("csv"), root)


@pytest.mark.parametrize(
    ("name", "folder", "column", "target", "count"),
    [
        ("isic2019", "isic2019", "image", "diagnosis", 400),
        ("isic2020", "isic2020", "image_name", "malignancy", 400),
        ("milk10k", "milk10k", "isic_id", "diagnosis", 400),
        ("fitzpatrick17k", "fitzpatrick17k", "md5hash", "nine_partition", 400),
    ],
)
def test_real_rows_are_read_whole_and_every_label_is_a_declared_class(
    shared_data, tmp_path, name, folder, column, target, count
):
    for path in (shared_data / "metadata_samples" / folder).glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        table = pd.read_csv(path, dtype=str)
        for image in table.get(column, ()):
            (tmp_path / f"{image}.jpg").touch()
    records = read_source(get_source(name), tmp_path)
    declared = records.targets[target]
    labels = records.frame[declared.column].dropna()
    assert len(records.frame) == count
    assert {problem.file for problem in records.problems} <= {"siim_train.csv"}, "the other edition of isic2020"
    assert set(labels) <= set(declared.classes) and len(labels) == count
    assert Path(records.frame["file"].iloc[0]).suffix == ".jpg"
