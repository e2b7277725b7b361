"""Turns, colour jitter, grey, blur, solarisation and normalisation of whole batches, on whatever device they lie.

All parameters come drawn (`dermssl.views.draws`); nothing here is random. The operations are torchvision's
(`adjust_brightness` ... `adjust_hue`, `gaussian_blur`, `solarize`), each applied to the views that asked for it.
They work in place on ``(N, 3, H, W)`` float32 in 0-1, with one amount per view ``(N,)``, and return what they changed.

On a CPU, memory is the limit. `dermssl.views.native` does all of this in few passes where there is a C compiler;
where there is none, views are sorted by the order of their operations and worked on in chunks that stay in the core's
cache. On a GPU, launching kernels is the limit: the whole batch is one chunk.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dermssl.views import native
from dermssl.views.draws import ORDERS, PHOTOMETRIC

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
COLUMN = {name: index for index, name in enumerate(PHOTOMETRIC)}

CHUNK_VALUES = 320_000
"""Values worked on at a time on a CPU: 1.3 MB, two views of 224 pixels or eleven of 96."""


def finish(
    pixels: Tensor,
    parameters: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    out: Tensor | None = None,
) -> Tensor:
    """8-bit crops -> augmented, normalised views.

    Args:
        pixels: ``(N, 3, S, S)`` uint8 on the training device.
        parameters: ``(N, 10)`` float32 on the CPU, columns as `PHOTOMETRIC`.
        mean, std: of the encoder's preprocessing, per channel, for values 0 to 1.
        out: what an earlier call returned for as many views, to be overwritten: on a CPU, touching new memory takes
            a good part of the time.

    Returns:
        ``(N, 3, S, S)`` float32 in channels_last layout.
    """
    if out is None:
        out = torch.empty(pixels.shape, device=pixels.device, memory_format=torch.channels_last)
    scale = 1 / np.array(std, np.float32)
    shift = np.array(mean, np.float32) * scale
    by = native.finish if is_native(pixels.device) else _by_pytorch
    by(pixels, parameters, scale, shift, out)
    return out


def is_native(device: torch.device) -> bool:
    """True where views on ``device`` are changed by `dermssl.views.native`."""
    return device.type == "cpu" and native.build().finish is not None


def _by_pytorch(pixels: Tensor, parameters: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: Tensor) -> None:
    """`dermssl.views.native.finish` for any device."""
    device = pixels.device
    scales, shifts = (torch.from_numpy(values).to(device).view(1, 3, 1, 1) for values in (scale, shift))
    for rows in _chunks(parameters, pixels[0].numel(), device):
        runs = _runs(rows)
        x = torch.empty((len(rows), *pixels.shape[1:]), device=device)
        places = x.split([run.stop - run.start for run in runs])
        for run, place in zip(runs, places, strict=True):
            place.copy_(pixels[run])
        _change(x.mul_(1 / 255), parameters[rows])
        x.mul_(scales).sub_(shifts)
        for run, place in zip(runs, places, strict=True):
            out[run].copy_(place)


def _chunks(parameters: np.ndarray, values: int, device: torch.device) -> list[np.ndarray]:
    """Numbers of the views that are worked on together; ``values`` are those of one view."""
    if device.type != "cpu":
        return [np.arange(len(parameters))]
    grey, sigma, solarized = (parameters[:, COLUMN[name]] for name in ("grey", "sigma", "solarize"))
    order = np.where(parameters[:, COLUMN["jitter"]] > 0, parameters[:, COLUMN["order"]], -1)
    rows = np.lexsort((solarized, sigma, grey, order))
    most = max(1, CHUNK_VALUES // values)
    groups = np.split(rows, np.flatnonzero(np.diff(order[rows])) + 1)
    return [group[start : start + most] for group in groups for start in range(0, len(group), most)]


def _runs(rows: np.ndarray) -> list[slice]:
    """The same rows as slices of consecutive numbers."""
    parts = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]


def _change(x: Tensor, parameters: np.ndarray) -> None:
    """All changes of the views ``x`` by their ``parameters`` (N, 10), in place."""
    turns = parameters[:, COLUMN["turn"]].astype(int)
    for motion, asked in _MOTIONS.items():
        _apply(motion, x, np.isin(turns, asked), parameters[:, COLUMN["turn"]])
    order = ORDERS[parameters[:, COLUMN["order"]].astype(int)]
    jittered = parameters[:, COLUMN["jitter"]] > 0
    for place in range(4):
        for number, (name, operation) in enumerate(_COLOUR.items()):
            _apply(operation, x, jittered & (order[:, place] == number), parameters[:, COLUMN[name]])
    for name, operation in _AFTERWARDS.items():
        _apply(operation, x, parameters[:, COLUMN[name]] > 0, parameters[:, COLUMN[name]])


def _apply(operation: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: np.ndarray, amounts: np.ndarray) -> None:
    """``operation`` on the views where ``mask`` is set; rows are found on the CPU, so no GPU synchronisation."""
    rows = np.flatnonzero(mask)
    if not len(rows):
        return
    amount = torch.from_numpy(amounts[rows]).to(x.device, non_blocking=True)
    runs = _runs(rows)
    if len(runs) == 1:
        operation(x[runs[0]], amount)
    else:
        chosen = torch.from_numpy(rows).to(x.device, non_blocking=True)
        x[chosen] = operation(x[chosen], amount)


def mirror(x: Tensor, _: Tensor) -> Tensor:
    """Left becomes right."""
    return x.copy_(x.flip(3))


def turn_quarter(x: Tensor, _: Tensor) -> Tensor:
    """To the left by 90 degrees."""
    return x.copy_(x.rot90(1, (2, 3)))


def turn_half(x: Tensor, _: Tensor) -> Tensor:
    """By 180 degrees."""
    return x.copy_(x.flip(2, 3))


_MOTIONS = {mirror: (4, 5, 6, 7), turn_quarter: (1, 3, 5, 7), turn_half: (2, 3, 6, 7)}
"""One after the other they make the turns that `dermssl.views.draws.turns` counts."""


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Times ``factor``, clipped."""
    return x.mul_(_per_view(factor)).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with each view's mean grey value, which is the grey value of its mean colour."""
    factor = _per_view(factor)
    mean = _grey(x.mean(dim=(2, 3), keepdim=True))
    return x.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey view."""
    factor = _per_view(factor)
    grey = _grey(x).mul_(1 - factor)
    return x.mul_(factor).add_(grey).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue (HSV) by ``shift`` turns, -0.5 to 0.5; value and saturation stay.

    Written without HSV, branches or divisions. With largest and smallest channel V and m and chroma C = V - m, the
    colour circle is 6 C long, and a pixel lies D = R + G + B + V - 2 m - 2 c away from the pure channel c, on the side
    told by the sign of the difference of the other two. A turn changes D, and the channel is m + clip(2 C - D, 0, C).
    """
    red, green, blue = x.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    total = (red + green).add_(blue).add_(value).sub_(low, alpha=2)
    turn = torch.empty_like(x)
    for first, second, out in zip((green, blue, red), (blue, red, green), turn.split(1, dim=1), strict=True):
        torch.sub(first, second, out=out)
    torch.copysign(chroma, turn, out=turn).mul_(_per_view(6 * shift))
    distance = torch.sub(total, x, alpha=2, out=x).add_(turn).abs_().sub_(3 * chroma).abs_().sub_(chroma)
    return torch.minimum(distance.clamp_min_(0), chroma, out=x).add_(low)


_COLOUR = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def turn_grey(x: Tensor, _: Tensor) -> Tensor:
    """All channels become the grey value."""
    return x.copy_(_grey(x).expand_as(x))


def solarize(x: Tensor, _: Tensor) -> Tensor:
    """Invert the values from 0.5 up."""
    return torch.minimum(x, 1 - x, out=x)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with reflecting borders, one standard deviation (pixels) per view, cut at 4 sigma.

    A CPU adds shifted copies, which is the least arithmetic; a GPU multiplies by matrices, which is the fewest passes.
    """
    if x.device.type != "cpu":
        return blur_by_matrices(x, sigma)
    weights = _gaussian(sigma, x.shape[-1])
    _blur_along(x, weights, dim=2)
    return _blur_along(x, weights, dim=3)


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """``(N, r + 1)`` weights of the pixels 0 to r away, each view's own cut at 4 sigma; both sides sum to 1."""
    radius = min(size - 1, max(1, int(np.ceil(4 * float(sigma.max())))))
    distance = torch.arange(radius + 1, device=sigma.device)
    sigma = sigma[:, None]
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= (4 * sigma).ceil())
    return weights / (2 * weights.sum(dim=1, keepdim=True) - 1)


def _blur_along(x: Tensor, weights: Tensor, dim: int) -> Tensor:
    radius, size = weights.shape[1] - 1, x.shape[dim]
    centre, *others = (_per_view(weight) for weight in weights.unbind(1))
    padded = pad(x, (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius), mode="reflect")
    torch.mul(padded.narrow(dim, radius, size), centre, out=x)
    pair = torch.empty_like(x)
    for far, weight in enumerate(others, start=1):
        torch.add(padded.narrow(dim, radius - far, size), padded.narrow(dim, radius + far, size), out=pair)
        x.addcmul_(pair, weight)
    return x


def blur_by_matrices(x: Tensor, sigma: Tensor) -> Tensor:
    """`blur`, each axis a product with a banded matrix: views with different sigma in one batched product."""
    size = x.shape[-1]
    weights = _gaussian(sigma, size)
    offsets = torch.arange(1 - weights.shape[1], weights.shape[1], device=x.device)
    reached = (torch.arange(size, device=x.device)[:, None] + offsets).abs()
    reached = torch.where(reached >= size, 2 * (size - 1) - reached, reached).expand(len(x), -1, -1)
    matrix = torch.zeros(len(x), 1, size, size, device=x.device)
    matrix[:, 0].scatter_add_(2, reached, weights[:, None, offsets.abs()].expand(-1, size, -1))
    return x.copy_(matrix @ x @ matrix.transpose(2, 3))


_AFTERWARDS = {"grey": turn_grey, "sigma": blur, "solarize": solarize}


def _per_view(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.split(1, dim=1)
    return (red * GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])
