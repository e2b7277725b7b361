"""Crops, colour and blur against torchvision, Pillow and OpenCV, and views that depend on nothing but the item."""

import io
from itertools import chain

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from dermssl.dataset import store
from dermssl.errors import InputError
from dermssl.views import colour, draws
from dermssl.views.colour import Changes
from dermssl.views.crops import cut, decode, turn
from dermssl.views.loader import Pool, ViewDataset, make_loader, to_views
from dermssl.views.recipe import View, ViewOptions, group_views
from dermssl.views.sampler import RankBatches, Sampler


def smooth_image(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pool(tmp_path) -> Pool:
    jpegs = []
    for seed in range(12):
        buffer = io.BytesIO()
        smooth_image(seed).save(buffer, "JPEG")
        jpegs.append(buffer.getvalue())
    store.write_shard(tmp_path / store.shard_name(0), jpegs)
    return Pool([store.ImageStore(tmp_path)], np.zeros(12, int), np.arange(12))


def as_tensor(image: Image.Image | np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


SMALL = ViewOptions(global_size=32, local_size=16, local_count=3)


@pytest.mark.parametrize("size", [24, 40, 60, 100])
def test_crops_agree_with_pillows_antialiased_resize(size):
    image = smooth_image(1)
    ours = cut(np.array(image), (7, 5, 71, 61), size).astype(float)
    pillows = image.resize((size, size), Image.Resampling.BICUBIC, box=(7, 5, 71, 61))
    assert ours.shape == (size, size, 3)
    assert np.abs(ours - np.array(pillows)).mean() < 1.2


@pytest.mark.parametrize("side", [48, 80, 96, 120])
def test_a_crop_that_shrinks_averages_its_pixels(side):
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    crop = noise[:side, :side]
    area = cv2.resize(crop, (24, 24), interpolation=cv2.INTER_AREA).astype(float)
    linear = cv2.resize(crop, (24, 24), interpolation=cv2.INTER_LINEAR)
    ours = np.abs(cut(noise, (0, 0, side, side), 24) - area).mean()
    assert ours <= 0.4 * np.abs(linear - area).mean()


def test_a_stored_jpeg_decodes_to_pillows_pixels(pool):
    for row in range(len(pool.row)):
        assert np.array_equal(decode(pool.stores[0].jpeg(row)), np.array(pool.stores[0].image(row)))


def test_crop_boxes_stay_inside_and_cover_the_asked_share():
    view = View(32, (0.2, 0.5), 0, 0)
    shares, corners = [], []
    for position in range(300):
        left, top, right, bottom = draws.crop_box(view.scale, 90, 70, draws.uniforms(0, 0, position, 1)[0])
        assert left >= 0 and top >= 0 and right <= 90 and bottom <= 70
        shares.append((right - left) * (bottom - top) / 6300)
        corners.append((left / (91 - right + left), top / (71 - bottom + top)))
    assert np.abs(np.mean(corners, axis=0) - 0.5).max() < 0.05 and np.quantile(corners, 0.9) > 0.8
    assert 0.19 < min(shares) < 0.24 and 0.46 < max(shares) < 0.52


def test_local_crops_have_a_range_of_their_own():
    options = ViewOptions(global_scale=[0.4, 1.0], local_scale=[0.05, 0.3])
    assert [tuple(view.scale) for view in list(chain(*group_views(options)))] == [(0.4, 1.0)] * 2 + [(0.05, 0.3)] * 8


def test_flips_and_turns_come_equally_often():
    numbers = np.random.default_rng(0).random((8000, 48))
    counts = np.bincount(draws.turns(ViewOptions(), numbers), minlength=8)
    assert len(counts) == 8 and np.abs(counts - 1000).max() < 150
    flips = np.bincount(draws.turns(ViewOptions(turns=False), numbers))
    assert set(np.flatnonzero(flips)) == {0, 4} and abs(flips[0] - 4000) < 200


def test_changes_come_as_often_and_as_strong_as_asked():
    options = ViewOptions(grey=0.3, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.05)
    views = list(chain(*group_views(options)))[1:4]
    drawn = draws.changes(options, views, np.random.default_rng(0).random((4000, 3, 48)))
    shares = {"grey": drawn.saturation == 0, "jitter": drawn.brightness != 1, "solarize": drawn.solarize}
    for name, odds in {"jitter": [0.8] * 3, "grey": [0.3] * 3, "solarize": [0.2, 0, 0]}.items():
        np.testing.assert_allclose(shares[name].mean(axis=0), odds, atol=0.03)
    np.testing.assert_array_equal(drawn.coloured, shares["grey"] | shares["jitter"])
    np.testing.assert_allclose((drawn.sigma > 0).mean(axis=0), [0.1, 0.5, 0.5], atol=0.03)
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.7, 1.3), "saturation": (0.8, 1.2), "hue": (-0.05, 0.05)}
    for name, (low, high) in ranges.items():
        values = getattr(drawn, name)[shares["jitter"] & ~shares["grey"]]
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01)
    local = drawn.sigma[:, 1:][drawn.sigma[:, 1:] > 0] * 224 / 96
    assert 0.1 <= local.min() < 0.12 and 1.98 < local.max() <= 2.0


def test_a_very_long_image_falls_back_to_a_centre_crop():
    assert draws.crop_box((0.9, 1.0), 1000, 10, [0.5] * 48) == (493, 0, 506, 10)


def matrix(**given: float) -> np.ndarray:
    """The colour matrix of one view."""
    same = {
        "coloured": 1,
        "brightness": 1,
        "contrast": 1,
        "saturation": 1,
        "hue": 0,
        "sigma": 0,
        "solarize": 0,
        "turn": 0,
    }
    return colour.matrices(Changes(**{name: np.array(float(value)) for name, value in (same | given).items()}))


@pytest.fixture
def skin() -> np.ndarray:
    """Light and dark skin with redder and browner spots, ``(64, 64, 3)`` uint8."""
    random = np.random.default_rng(0)
    tones = np.array([[224, 177, 158], [141, 95, 78], [196, 130, 116], [92, 64, 56]])
    spots = tones[random.integers(0, 4, (8, 8))] + random.normal(0, 8, (8, 8, 1))
    return cv2.resize(spots.clip(0, 255).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("factor", [-1, 1])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_small_colour_changes_are_torchvisions(skin, name, factor):
    amount = 0.02 * factor if name == "hue" else 1 + 0.1 * factor
    theirs = getattr(reference, f"adjust_{name}")(as_tensor(skin) / 255, amount).permute(1, 2, 0).numpy() * 255
    ours = colour.recolour(skin, matrix(**{name: amount})).astype(float)
    assert np.abs(theirs - skin).mean() > 2
    assert np.abs(ours - theirs).mean() < (4 if name == "hue" else 0.5)
    assert np.corrcoef((ours - skin).ravel(), (theirs - skin).ravel())[0, 1] > 0.5


@pytest.mark.parametrize("hue", [0.01, 0.02, 0.1])
def test_a_hue_changes_skin_as_strongly_as_torchvisions(skin, hue):
    moved = []
    for shift in (hue, -hue):
        theirs = reference.adjust_hue(as_tensor(skin) / 255, shift).permute(1, 2, 0).numpy() * 255
        ours = colour.recolour(skin, matrix(hue=shift)).astype(float)
        moved.append([np.abs(ours - skin).mean(), np.abs(theirs - skin).mean()])
    ours, theirs = np.mean(moved, axis=0)
    assert 0.8 < ours / theirs < 1.25, ours / theirs


def test_all_colour_changes_together_are_near_torchvisions(skin):
    theirs = as_tensor(skin) / 255
    for name, amount in {"brightness": 1.05, "contrast": 0.9, "saturation": 1.1, "hue": 0.01}.items():
        theirs = getattr(reference, f"adjust_{name}")(theirs, amount)
    ours = colour.recolour(skin, matrix(brightness=1.05, contrast=0.9, saturation=1.1, hue=0.01))
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy() * 255).mean() < 3


def test_one_matrix_is_the_four_changes_one_after_the_other_in_any_order(skin):
    amounts = {"brightness": 1.1, "contrast": 0.8, "saturation": 1.2, "hue": 0.05}
    together = colour.recolour(skin, matrix(**amounts)).astype(int)
    for names in (list(amounts), list(amounts)[::-1]):
        view = skin
        for name in names:
            view = colour.recolour(view, matrix(**{name: amounts[name]}))
        assert np.abs(view - together).mean() < 1


def test_grey_is_torchvisions_in_all_three_channels(skin):
    theirs = reference.rgb_to_grayscale(as_tensor(skin) / 255, num_output_channels=3).permute(1, 2, 0).numpy() * 255
    ours = colour.recolour(skin, matrix(saturation=0))
    assert np.abs(ours - theirs).max() < 1.1
    assert np.ptp(ours, axis=2).max() == 0


def test_a_grey_pixel_stays_grey_whatever_hue_and_saturation_do():
    for level in (0, 90, 255):
        grey = np.array([level] * 3 + [0.0])
        np.testing.assert_allclose(matrix(hue=0.2, saturation=1.5) @ grey, [level] * 3, atol=1e-9)


@pytest.mark.parametrize("hue", [-0.5, 0.02, 0.25])
def test_a_hue_rotation_keeps_luma_and_comes_back(hue):
    linear = matrix(hue=hue)[:, :3]
    np.testing.assert_allclose(colour.LUMA @ linear, colour.LUMA, atol=1e-9)
    np.testing.assert_allclose(linear @ matrix(hue=-hue)[:, :3], np.eye(3), atol=1e-9)


def test_values_are_clipped_once_at_the_end():
    view = np.full((4, 4, 3), (200, 180, 160), np.uint8)
    assert np.abs(colour.recolour(view, matrix(brightness=1.4, contrast=0.5)) - [255, 254.6, 240.6]).max() <= 1


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 2.0, 3.5])
def test_blur_is_opencvs_gaussian_and_keeps_a_flat_view(sigma):
    view = np.array(smooth_image(3, 64, 64))
    theirs = cv2.GaussianBlur(view.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    difference = np.abs(colour.blur(view, sigma) - theirs)
    assert difference.mean() < 0.8 and difference.max() < 3
    flat = np.full_like(view, 255)
    assert np.array_equal(colour.blur(flat, sigma), flat)


@pytest.mark.parametrize("size", [2, 3, 15])
def test_a_view_smaller_than_the_blurs_kernel_is_blurred(size):
    view = np.array(smooth_image(3, size, size))
    theirs = cv2.GaussianBlur(view, (13, 13), 2.0, borderType=cv2.BORDER_REFLECT_101)
    assert np.abs(colour.blur(view, 2.0).astype(int) - theirs).max() <= 3


def test_solarisation_is_torchvisions():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    theirs = reference.solarize(as_tensor(values), 128).permute(1, 2, 0).numpy()
    assert np.array_equal(colour.solarize(values), theirs)


PILLOWS_TURNS = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
)


@pytest.mark.parametrize("size", [19, 20])
def test_the_eight_turns_are_all_different_and_those_of_pillow(size):
    image = smooth_image(2, size, size)
    pillows = [image] + [image.transpose(method) for method in PILLOWS_TURNS]
    seen = set()
    for number, theirs in enumerate(pillows):
        ours = np.empty((size, size, 3), np.uint8)
        turn(np.array(image), number, ours)
        assert np.array_equal(ours, np.array(theirs))
        seen.add(ours.tobytes())
    assert len(seen) == 8


def test_a_view_is_cut_coloured_blurred_solarised_and_turned(pool):
    always = {"jitter": 1.0, "blur": [1.0] * 3, "solarize": [1.0] * 3}
    dataset = ViewDataset(pool, ViewOptions(global_size=32, global_count=1, local_count=0, **always), seed=0)
    (item,) = Sampler((12,), None, 1, 0).items(0)
    numbers = draws.uniforms(0, item.epoch, item.position, 1)
    drawn = draws.changes(dataset.options, dataset.groups[0], numbers)
    view = cut(decode(pool.stores[0].jpeg(item.row)), draws.crop_box((0.4, 1.0), 90, 70, numbers[0]), 32)
    view = colour.solarize(colour.blur(colour.recolour(view, colour.matrices(drawn)[0]), float(drawn.sigma[0])))
    out = np.empty_like(view)
    turn(view, int(drawn.turn[0]), out)
    assert np.array_equal(dataset.__getitems__([item])[0][0, 0].numpy(), out)


def test_views_do_not_depend_on_batch_or_workers(pool):
    sampler = Sampler((12,), None, 6, 0)
    dataset = ViewDataset(pool, SMALL, seed=0)
    plain, one, two = (list(make_loader(dataset, RankBatches(sampler, 0, 4), workers, False)) for workers in range(3))
    halves = [list(make_loader(dataset, RankBatches(sampler, 0, 4, rank, 2), 0, False)) for rank in range(2)]
    for step in range(4):
        for size in range(2):
            assert torch.equal(plain[step][size], one[step][size])
            assert torch.equal(plain[step][size], two[step][size])
            joined = torch.cat([halves[rank][step][size] for rank in range(2)], dim=1)
            assert torch.equal(plain[step][size], joined)


def test_views_of_one_image_differ_and_come_back_the_same(pool):
    dataset = ViewDataset(pool, SMALL, seed=0)
    items = Sampler((12,), None, 4, 0).items(0)
    first, again = dataset.__getitems__(items), dataset.__getitems__(items)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0][0], first[0][1])
    later = dataset.__getitems__([item._replace(epoch=5) for item in items])
    assert not torch.equal(first[0], later[0])


def test_view_shapes_and_normalisation(pool):
    crops = ViewDataset(pool, SMALL, seed=0).__getitems__(Sampler((12,), None, 4, 0).items(0))
    views = to_views(crops, torch.device("cpu"), (0.5,) * 3, (0.25,) * 3)
    assert [tuple(v.shape) for v in views] == [(2, 4, 3, 32, 32), (3, 4, 3, 16, 16)]
    assert all(v.flatten(0, 1).is_contiguous(memory_format=torch.channels_last) for v in views)
    pixels = crops[0].permute(0, 1, 4, 2, 3) / 255
    torch.testing.assert_close(views[0], (pixels - 0.5) / 0.25)


def test_each_channel_is_normalised_by_its_own_mean_and_deviation():
    crops = [torch.tensor([255, 51, 0], dtype=torch.uint8).expand(1, 1, 2, 2, 3)]
    (views,) = to_views(crops, torch.device("cpu"), (0.5, 0.2, 0.1), (0.5, 0.1, 0.2))
    torch.testing.assert_close(views[0, 0, :, 1, 0], torch.tensor([1.0, 0.0, -0.5]))


def test_published_odds_of_blur_and_solarisation_reach_their_views():
    views = list(chain(*group_views(ViewOptions(local_count=1))))
    assert [(view.blur, view.solarize) for view in views] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    options = ViewOptions()
    drawn = np.stack([draws.uniforms(0, 0, position, 3) for position in range(2000)])
    sigma = draws.changes(options, views, drawn).sigma
    share = (sigma[:, 1] > 0).mean()
    assert 0.07 < share < 0.13


@pytest.mark.parametrize(
    ("key", "value"), [("global_scale", [0.5]), ("local_scale", [0.5, 0.2]), ("blur", [1.0, 2.0, 0.0]), ("hue", 0.7)]
)
def test_options_out_of_range_name_their_key(key, value):
    with pytest.raises(ValueError, match=f"views.{key}"):
        ViewOptions(**{key: value})


@pytest.mark.parametrize(("size", "local"), [(224, 96), (96, 48), (64, 32), (32, 16), (16, 16)])
def test_local_crops_are_three_sevenths_of_global_ones(size, local):
    assert ViewOptions(global_size=size).local_size == local


def test_local_crops_are_no_larger_than_global_ones():
    with pytest.raises(ValueError, match=r"views.local_size 96 is above views.global_size 64"):
        ViewOptions(global_size=64, local_size=96)
    assert ViewOptions(global_size=64, local_size=96, local_count=0).local_count == 0


def test_a_stored_image_that_cannot_be_decoded_is_named_with_the_remedy(pool, tmp_path):
    store.write_shard(tmp_path / store.shard_name(0), [b"\xff\xd8\xff no JPEG"] * 12)
    damaged = Pool([store.ImageStore(tmp_path)], pool.store, pool.row)
    with pytest.raises(InputError, match=f"{tmp_path}: image 3 of the store is damaged .*run `dermssl prepare` again"):
        damaged.image(3)
