"""The options of views: size, area, turn, colour, blur and solarisation. Must not import torch.

The defaults are DINO's published recipe (Caron et al. 2021, appendix) with changes for skin. Skin has no up or down, so
all flips and quarter turns are equally likely. Colour is diagnostic (erythema, pigment), so hue shifts are weak and no
view is grey. The blur is proportional to the size of a view; in the published recipe it is the same for all sizes.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveInt

LARGEST_CROP = 4096
"""Pixels of a side; far larger crops need more memory than a machine has."""


@dataclass
class ViewOptions:
    """The views of an image."""

    global_size: PositiveInt = 224
    """Side of a global crop, pixels."""
    global_count: PositiveInt = 2
    """Global crops per image. The teacher sees only these."""
    global_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    """Smallest and largest share of the image's area in a global crop."""
    local_size: NonNegativeInt = 0
    """Side of a local crop, pixels (0: three sevenths of global_size, to the nearest multiple of 16)."""
    local_count: NonNegativeInt = 8
    """Local crops per image (0 for SimCLR, which compares two global crops)."""
    local_scale: list[float] = field(default_factory=lambda: [0.05, 0.4])
    """Smallest and largest share of the image's area in a local crop."""
    positives: Literal["image", "case", "lesion", "patient"] = "image"
    """What the views of an image show: this image only, or also another training photograph of its case, lesion or
    patient (MICLe). Never two patients."""
    positive_share: ClosedUnitInterval = 0.5
    """Probability that the second global and every second local view show another photograph, if there is one (for
    positives other than image)."""
    turns: bool = True
    """Flips along both axes and quarter turns; false: left-right flips only."""
    jitter: ClosedUnitInterval = 0.8
    """Probability that brightness, contrast, saturation and hue change."""
    brightness: NonNegativeFloat = 0.4
    """The brightness factor is drawn from 1 - x to 1 + x."""
    contrast: NonNegativeFloat = 0.4
    """The contrast factor is drawn from 1 - x to 1 + x."""
    saturation: NonNegativeFloat = 0.2
    """The saturation factor is drawn from 1 - x to 1 + x."""
    hue: float = 0.02
    """The hue is shifted by -x to x of the colour circle (0 to 0.5), with the strength of torchvision's."""
    grey: ClosedUnitInterval = 0.0
    """Probability of a grey view (published: 0.2)."""
    blur: list[float] = field(default_factory=lambda: [1.0, 0.1, 0.5])
    """Probability of Gaussian blur in the first global view, the other global views and the local views."""
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    """Smallest and largest standard deviation of the blur, in pixels of a 224-pixel view."""
    solarize: list[float] = field(default_factory=lambda: [0.0, 0.2, 0.0])
    """Probability of solarisation in the first global view, the other global views and the local views."""

    def __post_init__(self) -> None:
        """Set `local_size` if it is 0. Raises ValueError naming the key that is out of range."""
        self.local_size = self.local_size or max(1, round(self.global_size * 3 / 7 / 16)) * 16
        if self.global_size > LARGEST_CROP:
            raise ValueError(f"views.global_size {self.global_size}: give at most {LARGEST_CROP} pixels")
        if self.local_count and self.local_size > self.global_size:
            above = f"views.local_size {self.local_size} is above views.global_size {self.global_size}"
            raise ValueError(f"{above}: lower it, or leave it out")
        for key, largest, bound in (("global_scale", 1, " <= 1"), ("local_scale", 1, " <= 1"), ("blur_sigma", inf, "")):
            values = getattr(self, key)
            if len(values) != 2 or not 0 < values[0] <= values[1] <= largest:
                raise ValueError(f"views.{key} must be two numbers with 0 < low <= high{bound}, not {values}")
        for key in ("blur", "solarize"):
            values = getattr(self, key)
            if len(values) != 3 or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"views.{key} must be three probabilities (first global, other global, local views)")
        if not 0 <= self.hue <= 0.5:
            raise ValueError("views.hue must lie between 0 and 0.5")


class View(NamedTuple):
    """One view: its side in pixels, its range of area shares, and its probabilities of blur and solarisation."""

    size: int
    scale: list[float]
    blur: float
    solarize: float


def group_views(options: ViewOptions) -> list[list[View]]:
    """The views of an image: its global crops, then its local crops if there are any."""
    odds = list(zip(options.blur, options.solarize, strict=True))
    large = [View(options.global_size, options.global_scale, *odds[min(i, 1)]) for i in range(options.global_count)]
    small = View(options.local_size, options.local_scale, *odds[2])
    return [group for group in (large, [small] * options.local_count) if group]
