"""Draws the lesions of the four conditions and of impetigo, which differ in shape more than in colour or area.

Each patient has a layout of marks in the plane of the skin, in centimetres. The strengths of redness, pigment and
scaling have the same distribution for all conditions, so that a mean colour tells little.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dermssl.synth.texture import Plane


class Mark(NamedTuple):
    """One spot: centre and radius in cm, ``aspect`` (short by long axis), ``angle`` in radians, ``strength`` 0-1."""

    x: float
    y: float
    radius: float
    aspect: float
    angle: float
    strength: float


@dataclass(frozen=True)
class Layout:
    """A patient's lesions and their strengths, the same in all photos of the patient."""

    condition: str
    marks: list[Mark]
    fine: list[Mark]
    crusts: list[Mark]
    bites: list[Mark]
    redness: float
    pigment: float
    scaling: float


class Maps:
    """The amount of each component of the skin at each pixel, all ``(H, W)`` float32, zero at first."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.melanin, self.blood, self.height, self.scale, self.crust = np.zeros((5, *shape), np.float32)


def draw_layout(condition: str, impetigo: bool, random: np.random.Generator) -> Layout:
    """A new patient's lesions."""
    marks, fine = _CONDITIONS[condition][0](random)
    centre = marks[random.integers(len(marks))]
    crusts = _scatter(random, 4, 10, (centre.x, centre.y), 1.6, (0.2, 0.6)) if impetigo else []
    return Layout(
        condition,
        marks,
        fine,
        crusts,
        bites=_scatter(random, 0, 5, (0, 0), 6, (0.1, 0.3)),
        redness=random.uniform(0.35, 0.85),
        pigment=random.uniform(-0.15, 0.35),
        scaling=random.uniform(0.25, 1.0),
    )


def _scatter(
    random: np.random.Generator,
    fewest: int,
    most: int,
    centre: tuple[float, float],
    spread: float,
    radii: tuple[float, float],
    aspects: tuple[float, float] = (0.6, 1.0),
) -> list[Mark]:
    count = int(random.integers(fewest, most + 1))
    spots = random.normal(centre, spread, size=(count, 2))
    shapes = random.uniform((radii[0], aspects[0], 0, 0.55), (radii[1], aspects[1], np.pi, 1), size=(count, 4))
    return [Mark(*map(float, row)) for row in np.hstack([spots, shapes])]


def _scabies_layout(random: np.random.Generator) -> tuple[list[Mark], list[Mark]]:
    centres = random.normal(0, 2.5, size=(int(random.integers(2, 5)), 2))
    papules = [m for c in centres for m in _scatter(random, 8, 21, tuple(c), 1.5, (0.12, 0.3))]
    burrows = [m for c in centres for m in _scatter(random, 1, 4, tuple(c), 1.5, (0.35, 0.7), (0.12, 0.18))]
    return papules, burrows


def draw_lesions(maps: Maps, plane: Plane, layout: Layout) -> None:
    """Add a patient's lesions to ``maps``, and a few insect bites and moles that belong to no condition."""
    plane = plane.warped(0.22)
    _CONDITIONS[layout.condition][1](maps, plane, layout)
    bite = paint(plane, layout.bites[::2], _bell, 1.8)
    maps.blood += 0.6 * bite
    maps.height += 0.1 * bite
    maps.melanin += 0.8 * paint(plane, layout.bites[1::2], lambda d: _step(0.7 - d, 0.3), 1.2)
    if layout.crusts:  # impetigo: honey-coloured crusts on glossy red erosions
        clouds = plane.noise("clouds", 2, layer=5)
        crust = paint(plane, layout.crusts, lambda d: _step(1 - d, 0.25), 1.3)
        maps.blood += 0.7 * paint(plane, layout.crusts, lambda d: _step(1.35 - d, 0.4), 1.7)
        maps.crust += crust * np.clip(0.8 + 0.3 * clouds, 0.2, 1)
        maps.height += 0.12 * crust * (1 + 0.4 * clouds)


def paint(plane: Plane, marks: list[Mark], profile: Callable[[np.ndarray], np.ndarray], reach: float) -> np.ndarray:
    """The strongest mark at each pixel, ``(H, W)``: strength x profile(distance in radii), zero beyond ``reach``."""
    field = np.zeros(plane.x.shape, np.float32)
    for mark in marks:
        box = plane.window(mark.x, mark.y, mark.radius * reach + 0.6)
        dx, dy = plane.x[box] - mark.x, plane.y[box] - mark.y
        cos, sin = np.cos(mark.angle), np.sin(mark.angle)
        distance = np.hypot(dx * cos + dy * sin, (dy * cos - dx * sin) / mark.aspect) / mark.radius
        field[box] = np.maximum(field[box], mark.strength * profile(distance))
    return field


def _step(values: np.ndarray, softness: float) -> np.ndarray:
    """A smooth step from 0 to 1, of width ``softness`` around ``values`` = 0."""
    ramp = np.clip(values / softness + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _bell(distance: np.ndarray) -> np.ndarray:
    return np.exp(-2 * distance * distance)


def _draw_eczema(maps: Maps, plane: Plane, layout: Layout) -> None:
    """Ill-defined, mottled patches that fade into the skin; scaly, with coarsened skin lines."""
    cover = paint(plane, layout.marks, lambda d: _step(1 - d, 1.3), 1.7)
    mottled = cover * np.clip(0.75 + 0.45 * plane.noise("clouds", 4, layer=1), 0, 1.5)
    maps.blood += 1.1 * layout.redness * mottled
    maps.melanin += layout.pigment * mottled
    maps.scale += 0.8 * layout.scaling * cover * np.clip(plane.noise("grain", 7, layer=2) - 0.5, 0, 1)
    maps.height += 0.018 * cover * plane.noise("lines", 7, layer=3)


def _draw_fungal(maps: Maps, plane: Plane, layout: Layout) -> None:
    """Rings: a narrow raised scaly border with gaps around a cleared centre."""
    border = paint(plane, layout.marks, lambda d: np.exp(-(((d - 1) / 0.16) ** 2)), 1.5)
    centre = paint(plane, layout.marks, lambda d: _step(0.95 - d, 0.2), 1.2)
    broken = border * np.clip(0.85 + 0.5 * plane.noise("clouds", 3, layer=1), 0.15, 1.3)
    maps.blood += layout.redness * (1.3 * broken + 0.15 * centre)
    maps.melanin += layout.pigment * (0.8 * broken + 0.5 * centre)
    maps.scale += layout.scaling * broken * np.clip(0.35 + 0.8 * plane.noise("grain", 6, layer=2), 0, 1)
    maps.height += 0.07 * broken


def _draw_scabies(maps: Maps, plane: Plane, layout: Layout) -> None:
    """Many small papules, some scratched open, and short thread-like burrows."""
    papule = paint(plane, layout.marks, _bell, 1.8)
    scratched = paint(plane, layout.marks[::3], lambda d: _step(0.45 - d, 0.3), 1.0)
    burrow = paint(plane, layout.fine, lambda d: _step(1 - d, 0.5), 1.3)
    maps.blood += 1.4 * layout.redness * papule + 0.4 * scratched
    maps.melanin += layout.pigment * 1.3 * papule + 0.5 * scratched + 0.15 * burrow
    maps.scale += 0.8 * layout.scaling * burrow
    maps.height += 0.13 * papule + 0.03 * burrow


def _draw_others(maps: Maps, plane: Plane, layout: Layout) -> None:
    """One or few sharply bordered plaques or nodules, or flat patches without pigment."""
    cover = paint(plane, layout.marks, lambda d: _step(1 - d, 0.12), 1.3)
    if layout.pigment < 0.05:
        maps.melanin -= 0.75 * cover
        maps.blood += 0.3 * layout.redness * cover
        return
    dome = paint(plane, layout.marks, lambda d: np.sqrt(np.clip(1 - d * d, 0, 1)), 1.2)
    maps.blood += 1.1 * layout.redness * cover
    maps.melanin += layout.pigment * cover
    maps.scale += 0.4 * layout.scaling * cover * np.clip(plane.noise("grain", 8, layer=2), 0, 1)
    maps.height += 0.30 * dome


_CONDITIONS: dict[str, tuple[Callable[..., tuple[list[Mark], list[Mark]]], Callable[[Maps, Plane, Layout], None]]] = {
    "Eczema": (lambda random: (_scatter(random, 2, 5, (0, 0), 3.0, (1.2, 3.2), (0.45, 1)), []), _draw_eczema),
    "Fungal": (lambda random: (_scatter(random, 1, 4, (0, 0), 3.0, (0.8, 2.6), (0.75, 1)), []), _draw_fungal),
    "Others": (lambda random: (_scatter(random, 1, 4, (0, 0), 2.5, (0.5, 1.8), (0.6, 1)), []), _draw_others),
    "Scabies": (_scabies_layout, _draw_scabies),
}
"""For each condition, what draws a patient's marks and fine marks, and what paints them."""
