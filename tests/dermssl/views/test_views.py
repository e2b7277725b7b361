"""Crops and photometric changes against torchvision, and views that depend on nothing but the item."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from dermssl.backbone import build
from dermssl.dataset import store
from dermssl.views import draws, native, photometric
from dermssl.views.crops import cut, decode
from dermssl.views.draws import PHOTOMETRIC
from dermssl.views.loader import Pool, ViewDataset, make_loader, to_views
from dermssl.views.recipe import View, ViewOptions, list_views
from dermssl.views.sampler import RankBatches, Sampler

MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


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


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


SMALL = ViewOptions(global_size=32, local_size=16, local_count=3)


def test_crops_agree_with_torchvisions_antialiased_resize_and_with_pillows():
    image = smooth_image(1)
    ours = cut(as_tensor(image).numpy(), (7, 5, 71, 61), 24).astype(float)
    tensor = as_tensor(image).float()
    theirs = reference.resized_crop(tensor, 5, 7, 56, 64, [24, 24], InterpolationMode.BICUBIC, antialias=True)
    pillows = image.crop((7, 5, 71, 61)).resize((24, 24), Image.Resampling.BICUBIC)
    assert np.abs(ours - theirs.numpy()).mean() < 0.6
    assert np.abs(ours - as_tensor(pillows).numpy()).max() <= 2


def test_a_stored_jpeg_decodes_to_pillows_pixels_side_by_side(pool):
    for row in range(len(pool)):
        ours = decode(pool.stores[0].jpeg(row))
        assert np.array_equal(ours, as_tensor(pool.stores[0].image(row)))
        assert ours.strides[0] == 1


def test_crop_boxes_stay_inside_and_cover_the_asked_share():
    view = View(32, (0.2, 0.5), 0, 0)
    shares, corners = [], []
    for position in range(300):
        ((left, top, right, bottom),) = draws.crop_boxes([view], 90, 70, draws.uniforms(0, 0, position, 1))
        assert left >= 0 and top >= 0 and right <= 90 and bottom <= 70
        shares.append((right - left) * (bottom - top) / 6300)
        corners.append((left / (91 - right + left), top / (71 - bottom + top)))
    assert np.abs(np.mean(corners, axis=0) - 0.5).max() < 0.05 and np.quantile(corners, 0.9) > 0.8
    assert 0.19 < min(shares) < 0.24 and 0.46 < max(shares) < 0.52


def test_local_crops_have_a_range_of_their_own():
    options = ViewOptions(global_scale=[0.4, 1.0], local_scale=[0.05, 0.3])
    assert [view.scale for view in list_views(options)] == [(0.4, 1.0)] * 2 + [(0.05, 0.3)] * 8


def test_flips_and_turns_come_equally_often():
    numbers = np.random.default_rng(0).random((8000, 48))
    counts = np.bincount(draws.turns(ViewOptions(), numbers), minlength=8)
    assert len(counts) == 8 and np.abs(counts - 1000).max() < 150
    flips = np.bincount(draws.turns(ViewOptions(turns=False), numbers))
    assert set(np.flatnonzero(flips)) == {0, 4} and abs(flips[0] - 4000) < 200


def test_photometric_changes_come_as_often_and_as_strong_as_asked():
    options = ViewOptions(grey=0.3, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.05)
    views = list_views(options)[1:4]
    drawn = draws.photometric(options, views, np.random.default_rng(0).random((4000, 3, 48)))
    of = {name: drawn[..., index] for index, name in enumerate(PHOTOMETRIC)}
    for name, odds in {"jitter": [0.8] * 3, "grey": [0.3] * 3, "solarize": [0.2, 0, 0]}.items():
        np.testing.assert_allclose(of[name].mean(axis=0), odds, atol=0.03)
    np.testing.assert_allclose((of["sigma"] > 0).mean(axis=0), [0.1, 0.5, 0.5], atol=0.03)
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.7, 1.3), "saturation": (0.8, 1.2), "hue": (-0.05, 0.05)}
    for name, (low, high) in ranges.items():
        assert low <= of[name].min() < low + 0.01 and high - 0.01 < of[name].max() <= high
        assert of[name].mean() == pytest.approx((low + high) / 2, abs=0.01)
    assert set(of["order"].ravel()) == set(range(24))
    local = of["sigma"][:, 1:][of["sigma"][:, 1:] > 0] * 224 / 96
    assert 0.1 <= local.min() < 0.12 and 1.98 < local.max() <= 2.0


def test_a_very_long_image_falls_back_to_a_centre_crop():
    (box,) = draws.crop_boxes([View(32, (0.9, 1.0), 0, 0)], 1000, 10, np.full((1, 48), 0.5))
    assert box.tolist() == [493, 0, 506, 10]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_operations_are_torchvisions(name):
    torch.manual_seed(0)
    images = torch.rand(4, 3, 20, 20)
    amounts = torch.tensor([-0.3, -0.02, 0.1, 0.5] if name == "hue" else [0.4, 0.9, 1.1, 1.5])
    theirs = [getattr(reference, f"adjust_{name}")(i, float(a)) for i, a in zip(images, amounts, strict=True)]
    ours = getattr(photometric, name)(images, amounts)
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-6, rtol=0)


def test_grey_is_torchvisions_in_all_three_channels():
    images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    theirs = reference.rgb_to_grayscale(images, num_output_channels=3)
    ours = photometric.turn_grey(images.clone(), torch.ones(4))
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    assert not torch.allclose(ours, images, atol=0.1)


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.02, 0.5])
def test_hue_is_torchvisions_where_channels_are_equal(shift):
    levels = torch.tensor([0.0, 0.25, 1.0])
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 3, 9).contiguous()
    theirs = reference.adjust_hue(image, shift)
    torch.testing.assert_close(photometric.hue(image, torch.tensor([shift])), theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("way", ["shifted copies", "matrices"])
def test_blur_is_torchvisions_gaussian_with_its_own_sigma_per_view(way):
    torch.manual_seed(0)
    images, sigmas = torch.rand(3, 3, 40, 40), torch.tensor([0.3, 1.0, 2.0])
    kernels = [2 * int(np.ceil(4 * float(s))) + 1 for s in sigmas]
    theirs = [
        reference.gaussian_blur(image, [kernel] * 2, [float(sigma)] * 2)
        for image, kernel, sigma in zip(images, kernels, sigmas, strict=True)
    ]
    blur = photometric.blur if way == "shifted copies" else photometric.blur_by_matrices
    torch.testing.assert_close(blur(images, sigmas), torch.stack(theirs), atol=2e-6, rtol=0)


@pytest.fixture
def compiler() -> None:
    """Without one there is nothing to test."""
    if native.build().finish is None:
        pytest.skip(f"no C compiler: {native.build().reason}")


@pytest.fixture(params=["C", "PyTorch"])
def way(request, monkeypatch) -> str:
    """Both ways to change views on a CPU; the first needs a compiler."""
    if request.param == "C":
        request.getfixturevalue("compiler")
    monkeypatch.setattr(photometric, "is_native", lambda device: request.param == "C")
    return request.param


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
def test_the_eight_turns_are_all_different_and_those_of_pillow(way, size):
    image = smooth_image(2, size, size)
    parameters = np.zeros((8, len(PHOTOMETRIC)), np.float32)
    parameters[:, PHOTOMETRIC.index("turn")] = np.arange(8)
    views = photometric.finish(as_tensor(image).expand(8, -1, -1, -1).contiguous(), parameters, (0,) * 3, (1,) * 3)
    pillows = torch.stack([as_tensor(image)] + [as_tensor(image.transpose(method)) for method in PILLOWS_TURNS])
    assert torch.equal((views * 255).round(), pillows.float())
    assert len({view.numpy().tobytes() for view in views}) == 8


def every_change(size: int = 32, count: int = 40) -> tuple[torch.Tensor, np.ndarray]:
    """Random views, and parameters among which each change and each lack of it occurs."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    options = ViewOptions(global_size=32, local_count=0, grey=0.3, blur=[0.5] * 3, solarize=[0.3] * 3)
    view = View(size, (0.3, 1.0), 0.5, 0.3)
    drawn = np.concatenate([draws.uniforms(0, 0, position, 1) for position in range(count)])
    return torch.from_numpy(pixels), draws.photometric(options, [view] * count, drawn)


def test_a_view_is_the_same_alone_and_in_any_company(way):
    pixels, parameters = every_change()
    together = photometric.finish(pixels, parameters, MEAN, STD)
    alone = [photometric.finish(pixels[i : i + 1], parameters[i : i + 1], MEAN, STD) for i in range(40)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)
    assert together.is_contiguous(memory_format=torch.channels_last)


def test_chunks_of_a_cpu_and_the_single_chunk_of_a_gpu_give_the_same_views(monkeypatch):
    monkeypatch.setattr(photometric, "is_native", lambda device: False)
    pixels, parameters = every_change()
    chunked = photometric.finish(pixels, parameters, MEAN, STD)
    monkeypatch.setattr(photometric, "_chunks", lambda parameters, values, device: [np.arange(len(parameters))])
    monkeypatch.setitem(photometric._AFTERWARDS, "sigma", photometric.blur_by_matrices)
    torch.testing.assert_close(photometric.finish(pixels, parameters, MEAN, STD), chunked, atol=2e-6, rtol=0)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("size", [2, 15, 32, 224, 513])
def test_c_and_pytorch_give_the_same_views(size, monkeypatch):
    pixels, parameters = every_change(size, 24 if size < 100 else 4)
    parameters[:, PHOTOMETRIC.index("sigma")] *= np.linspace(1, 3, len(parameters), dtype=np.float32)
    ours = photometric.finish(pixels, parameters, build.MEAN, build.STD)
    monkeypatch.setattr(photometric, "is_native", lambda device: False)
    theirs = photometric.finish(pixels, parameters, build.MEAN, build.STD)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.usefixtures("compiler")
def test_c_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    pixels, parameters = every_change()
    views = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        views.append(photometric.finish(pixels, parameters, MEAN, STD))
    assert torch.equal(views[0], views[1]) and torch.equal(views[0], views[2])


@pytest.mark.usefixtures("compiler")
def test_c_is_handed_nothing_that_it_would_misread():
    pixels, parameters = every_change()
    out = torch.empty(pixels.shape, memory_format=torch.channels_last)
    scale, shift = np.ones(3, np.float32), np.zeros(3, np.float32)
    for wrong in (
        (pixels, parameters, scale, shift, out[:3]),
        (pixels, parameters.astype(float), scale, shift, out),
        (pixels.float(), parameters, scale, shift, out),
        (pixels[..., :8], parameters, scale, shift, out),
        (pixels, parameters, scale, shift, out.contiguous()),
    ):
        with pytest.raises(ValueError, match=r"views of other shapes|uint8|channels_last"):
            native.finish(*wrong)


def test_views_overwritten_before_their_gradient_are_noticed(way):
    pixels, parameters = every_change()
    views = photometric.finish(pixels, parameters, MEAN, STD)
    weight = torch.ones(1, requires_grad=True)
    loss = (views * weight).sum()
    photometric.finish(pixels, parameters, MEAN, STD, views)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("broken", ["no-such-compiler", "false", 'cc "', "TMPDIR"])
def test_without_a_compiler_that_works_views_are_changed_by_pytorch_and_it_is_known_why(broken, monkeypatch):
    if broken == "TMPDIR":
        monkeypatch.setattr(native.tempfile, "TemporaryDirectory", lambda **_: (_ for _ in ()).throw(OSError("full")))
    else:
        monkeypatch.setenv("CC", broken)
    native.build.cache_clear()
    try:
        assert native.build().reason and not photometric.is_native(torch.device("cpu"))
        assert photometric.finish(*every_change(), MEAN, STD).isfinite().all()
    finally:
        native.build.cache_clear()


def test_a_view_goes_through_its_changes_in_its_own_order(way):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    parameters = np.zeros((2, len(PHOTOMETRIC)), np.float32)
    parameters[0] = [1, 0.8, 1.3, 0.7, 0.05, 11, 0, 0.8, 1, 0]
    ours = photometric.finish(pixels, parameters, MEAN, STD)
    image = pixels[0].float() / 255
    operations = [
        lambda x: reference.adjust_brightness(x, 0.8),
        lambda x: reference.adjust_contrast(x, 1.3),
        lambda x: reference.adjust_saturation(x, 0.7),
        lambda x: reference.adjust_hue(x, 0.05),
    ]
    for number in draws.ORDERS[11]:
        image = operations[number](image)
    image = reference.solarize(reference.gaussian_blur(image, [9, 9], [0.8, 0.8]), 0.5)
    torch.testing.assert_close(ours[0], image, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1], pixels[1] / 255, atol=1e-6, rtol=0)


def test_views_do_not_depend_on_batch_or_workers(pool):
    sampler = Sampler((12,), None, 6, 0)
    dataset = ViewDataset(pool, SMALL, seed=0)
    plain = list(make_loader(dataset, RankBatches(sampler, 0, 4), workers=0, pin=False))
    parallel = list(make_loader(dataset, RankBatches(sampler, 0, 4), workers=2, pin=False))
    halves = [list(make_loader(dataset, RankBatches(sampler, 0, 4, rank, 2), 0, False)) for rank in range(2)]
    for step in range(4):
        for size in range(2):
            assert torch.equal(plain[step].pixels[size], parallel[step].pixels[size])
            joined = torch.cat([halves[rank][step].pixels[size] for rank in range(2)], dim=1)
            assert torch.equal(plain[step].pixels[size], joined)
            joined = torch.cat([halves[rank][step].parameters[size] for rank in range(2)], dim=1)
            assert torch.equal(plain[step].parameters[size], joined)


def test_views_of_one_image_differ_and_come_back_the_same(pool):
    dataset = ViewDataset(pool, SMALL, seed=0)
    items = Sampler((12,), None, 4, 0).items(0)
    first, again = dataset.__getitems__(items), dataset.__getitems__(items)
    assert torch.equal(first.pixels[0], again.pixels[0])
    assert not torch.equal(first.pixels[0][0], first.pixels[0][1])
    later = dataset.__getitems__([item._replace(epoch=5) for item in items])
    assert not torch.equal(first.pixels[0], later.pixels[0])


def test_view_shapes_and_normalisation(pool):
    crops = ViewDataset(pool, SMALL, seed=0).__getitems__(Sampler((12,), None, 4, 0).items(0))
    views = to_views(crops, torch.device("cpu"), (0.5,) * 3, (0.25,) * 3)
    assert [tuple(v.shape) for v in views] == [(2, 4, 3, 32, 32), (3, 4, 3, 16, 16)]
    assert float(views[0].min()) >= -2 and float(views[0].max()) <= 2


def test_memory_of_used_views_is_used_again_and_changes_nothing(pool):
    dataset, device = ViewDataset(pool, SMALL, seed=0), torch.device("cpu")
    first, second = (dataset.__getitems__(Sampler((12,), None, 4, 0).items(step)) for step in range(2))
    fresh = to_views(second, device, MEAN, STD)
    used = to_views(first, device, MEAN, STD)
    again = to_views(second, device, MEAN, STD, used)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, fresh, strict=True))
    assert [view.data_ptr() for view in again] == [view.data_ptr() for view in used]


def test_published_odds_of_blur_and_solarisation_reach_their_views():
    views = list_views(ViewOptions(local_count=1))
    assert [(view.blur, view.solarize) for view in views] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    options = ViewOptions()
    drawn = np.stack([draws.uniforms(0, 0, position, 3) for position in range(2000)])
    sigma = draws.photometric(options, views, drawn)[..., PHOTOMETRIC.index("sigma")]
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
