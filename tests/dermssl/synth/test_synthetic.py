"""`dermssl synth`: PASSION's layout and proportions, planted duplicates, and pictures fixed by the seed."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.hashes import perceptual_hashes
from dermssl.synth.patients import draw_photo_counts, draw_splits, invent_patients
from dermssl.synth.photo import draw_person, draw_photo
from dermssl.synth.synth import KINDS, plan_copies
from dermssl.synth.texture import tile


def _bytes_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _pixels(path, side=24):
    return np.asarray(Image.open(path).convert("L").resize((side, side)), dtype=float).ravel()


def test_the_tables_have_the_columns_and_spellings_of_passion(synthetic_raw):
    labels = pd.read_csv(synthetic_raw / "label.csv", dtype=str, keep_default_na=False)
    assert ",".join(labels) == "subject_id,country,age,sex,fitzpatrick,body_loc,impetig,conditions_PASSION"
    assert set(labels["conditions_PASSION"]) <= {"Eczema", "Fungal", "Others", "Scabies"}
    assert set(labels["impetig"]) <= {"0.0", "1.0"} and set(labels["sex"]) == {"f", "m"}
    splits = pd.read_csv(synthetic_raw / "PASSION_split.csv")
    assert list(splits) == ["subject_id", "Split"] and set(splits["Split"]) == {"TRAIN", "TEST"}
    assert list(splits["subject_id"]) == list(labels["subject_id"])


def test_every_patient_has_photos_numbered_from_one(synthetic_raw):
    names = sorted(file.stem for file in (synthetic_raw / "images").iterdir())
    numbers = pd.Series(names).str.rsplit("_", n=1, expand=True).astype({1: int}).groupby(0)[1].apply(sorted)
    labels = pd.read_csv(synthetic_raw / "label.csv")
    assert set(numbers.index) == set(labels["subject_id"])
    assert all(found == list(range(1, len(found) + 1)) for found in numbers)


def test_the_number_of_workers_changes_no_byte(synthetic_raw, tmp_path, dermssl):
    again = dermssl(
        *("synth", "--out", tmp_path / "again", "--patients", 40, "--duplicates", 4),
        *("--image-size", 48, "--workers", 2),
    )
    assert again.code == 0
    assert _bytes_of(tmp_path / "again") == _bytes_of(synthetic_raw)


def test_another_seed_draws_another_set(synthetic_raw, tmp_path, dermssl):
    dermssl("synth", "--out", tmp_path / "b", "--patients", 8, "--image-size", 48, "--seed", 1, "--workers", 1)
    first = "images/SYN0000001_1.jpg"
    assert (tmp_path / "b" / first).read_bytes() != (synthetic_raw / first).read_bytes()


def test_photos_per_patient_add_up_to_the_published_totals():
    patients = {"Madagascar": 985, "Guinea": 384, "Malawi": 261, "Tanzania": 23}
    countries = pd.Series([name for name, number in patients.items() for _ in range(number)])
    counts = draw_photo_counts(countries, np.random.default_rng(0))
    totals = {name: int(counts[countries == name].sum()) for name in patients}
    assert totals == {"Madagascar": 2185, "Guinea": 480, "Malawi": 2150, "Tanzania": 86}
    several = counts[counts > 1]
    assert (counts.min(), counts.max()) == (1, 18) and np.median(several) == 3
    assert abs(len(several) / len(counts) - 1022 / 1653) < 0.02


def test_invented_patients_follow_the_published_proportions():
    labels = invent_patients(4000, np.random.default_rng(0))
    shares = labels["conditions_PASSION"].value_counts(normalize=True)
    published = {"Fungal": 579, "Scabies": 471, "Eczema": 414, "Others": 189}
    for condition, number in published.items():
        assert shares[condition] == pytest.approx(number / 1653, abs=0.03)
    assert (labels["impetig"] == "1.0").mean() == pytest.approx(191 / 1653, abs=0.02)
    assert (labels["fitzpatrick"].astype(int) >= 3).mean() > 0.99


def test_each_planted_copy_is_nearest_to_its_original(synthetic_raw):
    truth, images = pd.read_csv(synthetic_raw / "truth.csv"), synthetic_raw / "images"
    assert set(truth["kind"]) == set(KINDS) and truth["duplicate_subject_id"].nunique() == 4
    others = sorted(file.name for file in images.iterdir() if file.name not in set(truth["duplicate_file"]))
    thumbnails = np.stack([_pixels(images / name) for name in others])
    for row in truth.itertuples():
        copy = _pixels(images / row.duplicate_file)
        if row.kind == "flipped":
            copy = copy.reshape(24, 24)[:, ::-1].ravel()
        likeness = [np.corrcoef(copy, thumbnail)[0, 1] for thumbnail in thumbnails]
        assert others[int(np.argmax(likeness))] == row.file, row
        assert (images / row.file).read_bytes() != (images / row.duplicate_file).read_bytes()


def test_flipped_and_resaved_copies_are_found_by_the_perceptual_hash(synthetic_raw):
    truth, images = pd.read_csv(synthetic_raw / "truth.csv"), synthetic_raw / "images"
    for row in truth[truth["kind"] != "re-photographed"].itertuples():
        eight = perceptual_hashes(Image.open(images / row.file))
        assert np.bitwise_count(eight ^ perceptual_hashes(Image.open(images / row.duplicate_file))[0]).min() <= 10


def test_some_planted_records_cross_the_split_and_some_do_not(tmp_path, dermssl):
    dermssl("synth", "--out", tmp_path / "s", "--patients", 30, "--image-size", 24, "--workers", 1)
    side = pd.read_csv(tmp_path / "s" / "PASSION_split.csv").set_index("subject_id")["Split"]
    truth = pd.read_csv(tmp_path / "s" / "truth.csv").drop_duplicates("duplicate_subject_id")
    crosses = side[truth["subject_id"]].to_numpy() != side[truth["duplicate_subject_id"]].to_numpy()
    assert len(truth) == 12 and crosses.sum() == 6


def test_photos_of_one_patient_share_skin_but_not_the_view():
    random = np.random.default_rng(0)
    person = draw_person("Fungal", False, 5, ("back",), random)
    photos = [draw_photo(person, 64, np.random.default_rng([1, n])) for n in range(4)]
    assert len({photo.tobytes() for photo in photos}) == 4
    assert {max(photo.size) for photo in photos} == {64} and {min(photo.size) for photo in photos} == {48}


def test_no_shift_of_one_patients_texture_is_another_patients():
    one, other = (np.fft.rfft2(tile("lines", (float(number), 7.5))) for number in (1, 2))
    same, different = (np.fft.irfft2(one * spectrum.conj()).max() / one.size for spectrum in (one, other))
    assert different < 0.2 * same


def test_dark_skin_is_drawn_darker_than_light_skin():
    def brightness(tone):
        people = [draw_person("Others", False, tone, ("back",), np.random.default_rng([tone, n])) for n in range(6)]
        photos = [draw_photo(person, 32, np.random.default_rng(n)) for n, person in enumerate(people)]
        return np.mean([np.asarray(photo).mean() for photo in photos])

    assert brightness(2) > brightness(4) + 15 and brightness(4) > brightness(6) + 15


def test_prepare_marks_the_set_as_synthetic_and_frees_its_licence(synthetic_dataset):
    dataset = open_dataset(synthetic_dataset)
    assert dataset.name == "synthetic_passion" and dataset.info["synthetic"]
    assert dataset.licence["id"] == "CC0-1.0" and dataset.licence["synthetic"]
    assert (synthetic_dataset / "problems.csv").read_text() == "file,problem,action\n"


@pytest.fixture
def official_tables(tmp_path):
    """A few label rows and a split that also names two subjects without a row, as PASSION's does."""
    folder = tmp_path / "official"
    folder.mkdir()
    header = "subject_id,country,age,sex,fitzpatrick,body_loc,impetig,conditions_PASSION\n"
    rows = [f"AA{n:08d},{c},7,m,4,arm; leg,{n % 2}.0,{d}\n" for n, (c, d) in enumerate(_PEOPLE)]
    (folder / "label.csv").write_text(header + "".join(rows))
    sides = [f"AA{n:08d},{'TEST' if n % 3 == 0 else 'TRAIN'}\n" for n in range(len(_PEOPLE))]
    (folder / "PASSION_split.csv").write_text("subject_id,Split\nAA99,TEST\n" + "".join(sides) + "AA98,TRAIN\n")
    return folder


_PEOPLE = [("Guinea", "Eczema"), ("Malawi", "Fungal"), ("Madagascar", "Scabies"), ("Tanzania", "Others")] * 2


def test_real_labels_are_drawn_as_they_are_and_their_two_orphans_reported(official_tables, tmp_path, dermssl):
    raw, out = tmp_path / "raw", tmp_path / "data"
    drawn = dermssl(
        *("synth", "--out", raw, "--labels", official_tables / "label.csv"),
        *("--duplicates", 3, "--image-size", 32, "--workers", 1),
    )
    assert drawn.code == 0 and "PASSION's licence applies" in drawn.out
    sides = re.search(r"split \(patients\): TRAIN (\d+), TEST (\d+)", drawn.out)
    assert sum(map(int, sides.groups())) == 11
    labels = pd.read_csv(raw / "label.csv", dtype=str)
    pd.testing.assert_frame_equal(labels[:8], pd.read_csv(official_tables / "label.csv", dtype=str))
    assert labels["subject_id"][8:].str.startswith("SYN").all() and len(labels) == 11
    assert dermssl("prepare", "--source", "passion", "--root", raw, "--out", out, "--workers", 1).code == 0
    problems = pd.read_csv(out / "problems.csv")
    assert sorted(problems["file"]) == ["subject AA98", "subject AA99"]
    assert set(problems["action"]) == {"left out"}


def test_an_official_split_in_other_letters_is_read_and_another_word_is_bad_input(official_tables, tmp_path, dermssl):
    path, labels = official_tables / "PASSION_split.csv", official_tables / "label.csv"
    path.write_text(path.read_text().replace("TRAIN", "Train").replace("AA98,Train", "AA98,"))
    options = ("--labels", labels, "--duplicates", 8, "--image-size", 32, "--workers", 1)
    assert dermssl("synth", "--out", tmp_path / "raw", *options).code == 0
    path.write_text(path.read_text().replace("Train", "spare"))
    outcome = dermssl("synth", "--out", tmp_path / "other", *options)
    assert outcome.code == 2 and "Split holds ['SPARE']: it must be one of TRAIN, TEST" in outcome.err


def test_a_planted_record_never_gets_the_id_of_another_patient():
    random = np.random.default_rng(0)
    labels = invent_patients(6, random).iloc[[1, 3, 5]]
    planted, _, _ = plan_copies(labels, np.array([1, 2, 3]), draw_splits(labels, 0), 3, random)
    assert len(planted) == 3 and not set(planted["subject_id"]) & set(labels["subject_id"])


def test_real_label_rows_keep_the_licence_of_the_real_set(official_tables, tmp_path, dermssl):
    raw, out = tmp_path / "raw", tmp_path / "data"
    dermssl("synth", "--out", raw, "--labels", official_tables / "label.csv", "--image-size", 24, "--workers", 1)
    dermssl("prepare", "--source", "passion", "--root", raw, "--out", out, "--workers", 1)
    info = json.loads((out / "dataset.json").read_text())
    assert info["synthetic"] and info["licence"]["id"] == "PASSION" and info["licence"]["synthetic"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (",Fungal", ",Fungus", "Fungus"),
        (",7,m,4,", ",7,m,9,", "Fitzpatrick"),
        ("AA00000001", "AA00000000", "two rows"),
        ("AA00000001", "../../AA00000001", "'../../AA00000001' cannot begin an id or file name"),
        ("AA00000001", "/tmp/x", "'/tmp/x'"),
        ("AA00000001", "", "subject_id ''"),
        ("country", "land", "country"),
    ],
)
def test_a_label_file_that_cannot_be_drawn_is_bad_input(official_tables, tmp_path, dermssl, old, new, named):
    path = official_tables / "label.csv"
    path.write_text(path.read_text().replace(old, new))
    outcome = dermssl("synth", "--out", tmp_path / "raw", "--labels", path)
    assert outcome.code == 2 and named in outcome.err and str(path) in outcome.err
    assert not (tmp_path / "raw").exists()


def test_a_number_of_patients_and_a_table_of_them_exclude_each_other(official_tables, tmp_path, dermssl):
    outcome = dermssl("synth", "--out", tmp_path / "raw", "--labels", official_tables / "label.csv", "--patients", 9)
    assert outcome.code == 2 and "exclude each other" in outcome.err


def test_an_existing_folder_is_not_replaced_unasked(synthetic_raw, dermssl):
    outcome = dermssl("synth", "--out", synthetic_raw)
    assert outcome.code == 2 and "--overwrite" in outcome.err


@pytest.mark.parametrize("size", [1, 7, 8193, 10**8])
def test_pictures_of_a_size_that_cannot_be_drawn_are_refused(tmp_path, dermssl, size):
    refused = dermssl("synth", "--out", tmp_path / "s", "--patients", 3, "--image-size", size, "--workers", 1)
    assert refused.code == 2 and f"--image-size {size} cannot be drawn: give 8 to 8192" in refused.err
    assert not (tmp_path / "s").exists()
