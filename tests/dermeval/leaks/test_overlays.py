"""Rulers, stamps and frames at one place in many pictures are left out of the comparison; copies are not."""

import functools

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter, ImageOps

from dermeval.features.alignment import correlate, oriented_start, structure
from dermeval.leaks import marks, overlays
from dermeval.leaks.leaks import leaks
from dermeval.leaks.local_features import FINE, describe_picture
from dermeval.leaks.matching import local_of
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.overlays import features_of, overlay_cells, packed, same_details, unpacked, without_cells
from dermeval.leaks.verify import compare_pictures

SIZE = 160


@pytest.fixture(scope="module")
def photo(draw_skin):
    """``photo(number)``: a picture that is smoother than an overlay, as skin is."""
    return lambda number: draw_skin(number, SIZE).filter(ImageFilter.GaussianBlur(1))


def stamped(image: Image.Image) -> Image.Image:
    pixels = np.array(image)
    pixels[134:156, 45:] = 20
    cv2.putText(pixels, "14-03-19 10:22", (48, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 180, 0), 1, cv2.LINE_AA)
    return Image.fromarray(pixels)


def framed(image: Image.Image) -> Image.Image:
    """The picture in a window that is not its own mirror image."""
    page = np.full((SIZE, SIZE, 3), 245, np.uint8)
    page[40:140, :] = np.asarray(image)[:100]
    for text, place, width in (("Case viewer", (8, 26), 2), ("Next  Back  Close", (6, 154), 1)):
        cv2.putText(page, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), width, cv2.LINE_AA)
    return Image.fromarray(page)


def described(images) -> np.ndarray:
    return np.stack([describe_picture(np.asarray(image)) for image in images])


def cells_of(block: np.ndarray, groups=None, pool=None) -> np.ndarray:
    groups = np.arange(len(block)) if groups is None else groups
    pool = np.zeros(len(block), int) if pool is None else pool
    return overlay_cells(lambda: [(0, block[:3]), (3, block[3:])], groups, pool, FINE.voting)


@pytest.fixture(scope="module")
def with_stamp(photo):
    return described([stamped(photo(n)) for n in range(12)])


def test_a_stamp_is_hidden_where_it_stands_and_only_there(with_stamp, photo):
    block = np.concatenate([with_stamp, described([photo(n) for n in range(50, 54)])])
    cells = cells_of(block)
    assert cells[:12].any(axis=(1, 2)).all() and not cells[12:].any()
    assert not cells[:, :12].any() and not cells[:, :, :3].any()
    assert cells[:12, 14, 6:15].mean() > 0.9


def test_four_records_with_one_stamp_and_one_record_with_many_are_too_few(with_stamp):
    assert not cells_of(with_stamp[:4]).any()
    assert not cells_of(with_stamp, groups=np.zeros(12, int)).any()
    assert not cells_of(with_stamp[:8], pool=np.arange(8) % 2).any()


def test_copies_hide_nothing_but_their_stamp(photo):
    copies = [Image.fromarray((np.asarray(photo(3)) * (0.8 + n / 50)).astype(np.uint8)) for n in range(8)]
    assert not cells_of(described(copies)).any()
    cells = cells_of(described([stamped(one) for one in [*copies, *(photo(n) for n in range(20, 28))]]))
    assert cells[:, 14, 6:15].mean() > 0.9 and not cells[:, :12].any()


def test_copies_that_are_covered_at_different_places_hide_nothing(photo):
    copies = [np.array(photo(3)) for _ in range(8)]
    for number, copy in enumerate(copies):
        x, y = 13 * number, 100 - 13 * number
        copy[y : y + 50, x : x + 50] = 30 * number
    assert not cells_of(described([*copies, *(photo(n) for n in range(20, 30))])).any()


def test_stamps_at_two_places_are_hidden_and_the_pairs_stay_few(photo, monkeypatch):
    turned = [ImageOps.flip(stamped(ImageOps.flip(photo(n)))) for n in range(30, 60)]
    block = described([stamped(photo(n)) for n in range(30)] + turned)
    compared = []

    def counted(first, second, groups, pool):
        compared.append(len(second.image))
        return same_details(first, second, groups, pool)

    monkeypatch.setattr(overlays, "same_details", counted)
    monkeypatch.setattr(overlays, "COMPARED_AT_ONE_PLACE", 10)
    cells = cells_of(block)
    assert cells[:30, 14, 6:14].mean() > 0.9 and cells[30:, 1, 6:14].mean() > 0.9
    assert compared[0] < len(features_of(block, FINE.voting).image)


def test_an_even_frame_is_hidden_whole(photo):
    cells = cells_of(described([framed(photo(n)) for n in range(8)]))
    assert cells[:, :3].all() and not cells[:, 6:12].any()


def test_hidden_features_are_dropped_and_the_others_keep_their_order(with_stamp):
    cells = cells_of(with_stamp)
    before, after = with_stamp[0], without_cells(with_stamp, cells)[0]
    column, row = (before["points"][: before["count"], :2] / before["size"] * 16).astype(int).T
    kept = ~cells[0, row, column]
    assert after["count"] == kept.sum() < before["count"]
    for name in ("points", "descriptors"):
        assert np.array_equal(after[name][: after["count"]], before[name][: before["count"]][kept])
    assert np.array_equal(after["thumbnail"][~cells[0]], before["thumbnail"][~cells[0]])
    assert np.array_equal(unpacked(packed(cells)), cells)


def test_hidden_cells_do_not_count_in_the_alignment(photo):
    pictures = [np.array(photo(n)) for n in (1, 2)]
    for picture in pictures:
        picture[: SIZE * 3 // 4] = np.asarray(photo(3))[: SIZE * 3 // 4]
    hidden, start = np.zeros((16, 16), bool), oriented_start(0, (128, 128), (128, 128))
    hidden[:12] = True
    whole, rest = (correlate(*(structure(one, cells) for one in pictures), start) for cells in (None, hidden))
    assert whole.correlation > 0.9 and whole.overlap == 1
    assert rest.correlation < 0.4 and rest.overlap == pytest.approx(0.25, abs=0.02)


def test_an_enlarged_copy_under_the_same_round_view_is_told_from_another_picture(photo):
    y, x = np.mgrid[:16, :16] - 7.5
    hidden = np.hypot(x, y) > 6
    enlarged = photo(1).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(20, 20, 140, 140))
    start = np.array([[4 / 3, 0, -21], [0, 4 / 3, -21]])
    one, copy, other = (structure(np.asarray(image), hidden) for image in (photo(1), enlarged, photo(2)))
    assert correlate(one, copy, start).correlation > 0.7 and correlate(one, other, start).correlation < 0.3


@pytest.mark.parametrize("overlay", [stamped, framed])
def test_the_audit_finds_the_copies_among_pictures_with_one_overlay_and_no_other_pair(
    overlay, make_dataset, photo, tmp_path
):
    images = [overlay(photo(n)) for n in range(24)]
    pictures = [np.asarray(image) for image in images[:2]]
    structures = [functools.partial(structure, picture) for picture in pictures]
    alike = compare_pictures(*(local_of(describe_picture(picture)) for picture in pictures), structures)
    assert alike["inliers"][0] > 4  # without the rule, the overlay itself would be the evidence
    images += [images[0].rotate(7), overlay(photo(1).rotate(9, Image.Resampling.BICUBIC))]
    folder = make_dataset("set", images, [f"p{n}" for n in range(26)])
    report = leaks(LeaksOptions(str(tmp_path / "leaks"), [str(folder)], planted=0, workers=1, neighbours=6))
    pairs = pd.read_parquet(tmp_path / "leaks" / "pairs.parquet")
    assert set(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True)) == {("set/0", "set/24"), ("set/1", "set/25")}
    assert report.data["hidden"]["images"] >= 20
    assert "images, where a ruler, stamp, frame or watermark stands that images of several records show" in report.text


def signed(image: Image.Image, number: int) -> Image.Image:
    """The picture with a signature at another place and of another size in each picture."""
    random, pixels = np.random.default_rng(number), np.array(image)
    size, x, y = random.uniform(0.6, 0.7), int(random.integers(2, 20)), int(random.integers(25, 125))
    for line, text in enumerate(("Dr. Q. Zwei", "Haut 47 Bx")):
        place = x, y + round(40 * size * line)
        cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_COMPLEX, size, (30, 10, 60), 1, cv2.LINE_AA)
    return Image.fromarray(pixels)


def test_a_mark_that_stands_elsewhere_in_each_picture_is_found_by_the_pairs_it_makes(
    make_dataset, photo, tmp_path, monkeypatch
):
    images = [signed(photo(n), n) for n in range(14)] + [photo(n) for n in range(20, 30)]
    images += [images[0].rotate(7), signed(photo(1), 1).rotate(9, Image.Resampling.BICUBIC)]
    folder = make_dataset("set", images, [f"p{n}" for n in range(26)])

    def audited(name):
        report = leaks(LeaksOptions(str(tmp_path / name), [str(folder)], planted=0, workers=1))
        pairs = pd.read_parquet(tmp_path / name / "pairs.parquet")
        return set(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True)), report.data["hidden"]["images"]

    copies = {("set/0", "set/24"), ("set/1", "set/25")}
    with monkeypatch.context() as patch:
        patch.setattr(marks, "LEAST_LIKELY", 1000)
        found, hidden = audited("without")
        assert found > copies and not hidden, "without the rule, the signature itself is the evidence"
    found, hidden = audited("with")
    assert found == copies and hidden >= 8


def test_a_picture_of_which_many_records_show_one_part_hides_nothing(make_dataset, draw_skin, tmp_path):
    whole = draw_skin(0, 2 * SIZE)
    parts = [whole.crop((80 + n, 90 - n, 240 + n, 250 - n)) for n in range(10)]
    folder = make_dataset(
        "set", [whole, *parts, *(draw_skin(n, SIZE) for n in range(1, 12))], [f"p{n}" for n in range(22)]
    )
    report = leaks(LeaksOptions(str(tmp_path / "leaks"), [str(folder)], planted=0, workers=1))
    pairs = pd.read_parquet(tmp_path / "leaks" / "pairs.parquet")
    assert {f"set/{n}" for n in range(1, 11)} <= set(pairs["image_id_b"][pairs["image_id_a"] == "set/0"])
    assert not report.data["hidden"]["images"]
