"""A perceptual hash only suggests a copy: the stored pixels decide whether an image was seen in pretraining."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dermeval.features.alignment import same_scene
from dermeval.features.ledger import seen_images
from dermssl.dataset import hashes
from dermssl.dataset.dataset import open_dataset
from dermssl.files import sha256_file, write_parquet, write_yaml


def lesion(seed, size=160):
    """A dark spot in the middle of skin: one layout for all seeds, fine structure of its own."""
    random = np.random.default_rng(seed)
    spot = np.hypot(*(np.indices((size, size)) - size / 2)) < size / 4
    fine = sum(gaussian_filter(random.normal(size=(size, size)), sigma) * sigma for sigma in (0.7, 1.5, 3))
    grey = 170 - 90 * gaussian_filter(spot.astype(float), 6) + 8 * fine / fine.std()
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def saved_again(image, quality=60):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


COPIES = {
    "saved again": lambda image: image,
    "half as large": lambda image: image.resize((80, 80)),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_in_the_orientation_of_its_hash_correlates(change):
    image = lesion(1)
    copy = saved_again(COPIES[change](image))
    view = int(np.bitwise_count(hashes.perceptual_hashes(copy) ^ hashes.perceptual_hashes(image)[0]).argmin())
    assert same_scene(np.asarray(image), np.asarray(copy), view)


def test_two_lesions_of_one_layout_do_not():
    one, *others = (np.asarray(lesion(seed)) for seed in (1, 2, 3))
    assert not any(same_scene(one, other, view) for other in others for view in range(8))


def test_pictures_without_structure_are_no_copies():
    flat = np.full((64, 64, 3), (120, 90, 80), np.uint8)
    assert not same_scene(flat, flat, 0)


@pytest.fixture
def trained(tmp_path, make_picture_dataset):
    """A run whose ledger has three lesions, each with one hash, and a test set: a copy of the first, and a stranger."""
    train = make_picture_dataset("train", [lesion(seed) for seed in (1, 2, 3)], ["a", "b", "c"])
    test = make_picture_dataset("test", [saved_again(lesion(1)), lesion(9)], ["d", "e"])
    run = tmp_path / "run"
    (run / "encoder").mkdir(parents=True)
    (run / "encoder" / "model.safetensors").write_bytes(b"weights")
    write_yaml(run / "config.yaml", {"data": {"folders": [str(train)]}})
    columns = ["image_id", "dataset", "patient_id", "lesion_id", "group_id", "sha256", "pixel_sha256", "phash"]
    rows = open_dataset(train).frame()[columns].assign(times_seen=3)
    # All have the hash of the first image, as lesions of one layout may.
    rows["phash"] = [np.asarray(rows["phash"].iloc[0])] * len(rows)
    write_parquet(run / "ledger.parquet", pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False))
    record = {"path": str(run), "fingerprint": sha256_file(run / "encoder" / "model.safetensors")}
    dataset = open_dataset(test)
    frame = dataset.frame().assign(phash=[rows["phash"].iloc[0]] * 2)
    return record, frame, {dataset.name: dataset}


def test_only_the_copy_that_the_pixels_confirm_counts_as_seen(trained):
    record, frame, datasets = trained
    seen = seen_images(record, frame, datasets)
    assert seen.reasons["hash"].tolist() == [True, False] and not seen.suspected


def test_without_the_ledgers_pictures_both_are_possible_and_neither_counts(trained, tmp_path):
    record, frame, datasets = trained
    write_yaml(tmp_path / "run" / "config.yaml", {"data": {"folders": [str(tmp_path / "gone")]}})
    seen = seen_images(record, frame, datasets)
    assert not seen.reasons["hash"].any() and seen.suspected == set(frame["image_id"])


def test_a_picture_that_replaced_a_trained_one_since_is_not_compared_in_its_place(trained, tmp_path):
    record, frame, datasets = trained
    manifest = tmp_path / "data-train" / "manifest.parquet"
    table = pq.read_table(manifest)
    place = table.column_names.index("pixel_sha256")
    others = pa.array(["other 1", "other 2", "other 3"])
    write_parquet(manifest, table.set_column(place, table.schema.field(place), others))
    seen = seen_images(record, frame, datasets)
    assert not seen.reasons["hash"].any() and seen.suspected == set(frame["image_id"])
