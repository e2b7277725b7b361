"""Colour jitter, grey, blur, solarisation and normalisation of whole batches, on whatever device they lie.

All parameters come drawn (`dermssl.views.draws`); nothing here is random. The operations are torchvision's
(`adjust_brightness` ... `adjust_hue`, `gaussian_blur`, `solarize`), each applied to the views that asked for it.
"""

import numpy as np
import torch
from torch import Tensor

from dermssl.views.draws import ORDERS, PHOTOMETRIC

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
SOLARIZE_FROM = 0.5
COLUMN = {name: index for index, name in enumerate(PHOTOMETRIC)}


def finish(pixels: Tensor, parameters: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """8-bit crops -> augmented, normalised views.

    Args:
        pixels: ``(N, S, S, 3)`` uint8 on the training device.
        parameters: ``(N, 9)`` float32 on the CPU, columns as `PHOTOMETRIC`.
        mean, std: of the encoder's preprocessing, per channel, for values 0 to 1.

    Returns:
        ``(N, 3, S, S)`` float32 in channels_last layout.
    """
    x = pixels.permute(0, 3, 1, 2).float().div_(255)
    _jitter(x, parameters)
    chosen = _rows(parameters[:, COLUMN["grey"]] > 0, x.device)
    if chosen is not None:
        x[chosen] = _grey(x[chosen]).expand(-1, 3, -1, -1)
    blurred = parameters[:, COLUMN["sigma"]] > 0
    chosen = _rows(blurred, x.device)
    if chosen is not None:
        x[chosen] = blur(x[chosen], torch.from_numpy(parameters[blurred, COLUMN["sigma"]]).to(x.device))
    chosen = _rows(parameters[:, COLUMN["solarize"]] > 0, x.device)
    if chosen is not None:
        part = x[chosen]
        x[chosen] = torch.where(part >= SOLARIZE_FROM, 1 - part, part)
    shift = torch.tensor(mean, device=x.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=x.device).view(1, 3, 1, 1)
    return x.sub_(shift).div_(scale)


def _rows(mask: np.ndarray, device: torch.device) -> Tensor | None:
    """Indices where ``mask`` is set, computed on the CPU so that no GPU synchronisation is needed."""
    rows = np.flatnonzero(mask)
    return torch.from_numpy(rows).to(device, non_blocking=True) if len(rows) else None


def _jitter(x: Tensor, parameters: np.ndarray) -> None:
    """Brightness, contrast, saturation and hue in each view's own order, in place."""
    order = ORDERS[parameters[:, COLUMN["order"]].astype(int)]
    jittered = parameters[:, COLUMN["jitter"]] > 0
    for turn in range(4):
        for number, (name, operation) in enumerate(_COLOUR.items()):
            mask = jittered & (order[:, turn] == number)
            chosen = _rows(mask, x.device)
            if chosen is not None:
                amount = torch.from_numpy(parameters[mask, COLUMN[name]]).to(x.device).view(-1, 1, 1, 1)
                x[chosen] = operation(x[chosen], amount)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = x.unbind(1)
    return (GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue).unsqueeze(1)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` (N, 3, H, W) in 0-1 times ``factor`` (N, 1, 1, 1), clipped."""
    return (x * factor).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with each view's mean grey value."""
    return torch.lerp(_grey(x).mean(dim=(2, 3), keepdim=True), x, factor).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey view."""
    return torch.lerp(_grey(x), x, factor).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue (HSV) by ``shift`` (N, 1, 1, 1) turns; value and saturation stay.

    Written without a round trip through HSV: with value V, chroma C and hue sector h in [0, 6), each channel is
    V - C * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1 for red, green, blue.
    """
    value, _ = x.max(dim=1, keepdim=True)
    chroma = value - x.amin(dim=1, keepdim=True)
    red, green, blue = x.split(1, dim=1)
    safe = chroma.clamp_min(1e-12)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = torch.remainder(offsets + sector + 6 * shift, 6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


_COLOUR = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with reflecting borders, one standard deviation (pixels) per view.

    A blur along one axis is a product with a banded matrix, which makes views with different sigma one batched
    matrix product instead of a convolution each. ``x`` (N, 3, S, S), ``sigma`` (N,).
    """
    matrix = blur_matrix(x.shape[-1], sigma).unsqueeze(1)
    return matrix @ x.contiguous() @ matrix.transpose(2, 3)


def blur_matrix(size: int, sigma: Tensor) -> Tensor:
    """``(N, size, size)``: row i holds the Gaussian weights (cut at 4 sigma, summing to 1) of pixels around i."""
    radius = min(size - 1, max(1, int(np.ceil(4 * float(sigma.max())))))
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    reached = torch.arange(size, device=sigma.device)[:, None] + offsets
    reached = reached.abs()
    reached = torch.where(reached >= size, 2 * (size - 1) - reached, reached)
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, reached.expand(len(sigma), -1, -1), weights[:, None].expand(-1, size, -1))
