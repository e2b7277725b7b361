"""Draws one photo of a patient: skin, lesions, background, light and camera.

Skin colour follows the Beer-Lambert law: the transmissions of melanin and blood are multiplied. So redness is bright on
light skin and violet and dim on dark skin, as in life. Tone, light, zoom and background vary more than any lesion.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from dermssl.synth.lesions import Layout, Maps, draw_layout, draw_lesions
from dermssl.synth.texture import Plane

BLOODLESS = np.array([0.93, 0.79, 0.70], np.float32)
MELANIN_ABSORBS = np.array([0.52, 0.80, 1.05], np.float32)
BLOOD_ABSORBS = np.array([0.10, 0.62, 0.50], np.float32)
SCALE_COLOUR = np.array([0.88, 0.85, 0.80], np.float32)
CRUST_COLOUR = np.array([0.72, 0.50, 0.18], np.float32)
MELANIN = {1: 0.04, 2: 0.14, 3: 0.30, 4: 0.55, 5: 0.90, 6: 1.35}
LIMB_RADIUS = {"arm": 4.0, "hand": 3.2, "leg": 6.0, "foot": 3.6, "face": 7.0, "hair": 8.0}
"""Half the width of rounded body parts in cm. The other sites are flat."""


@dataclass(frozen=True)
class Person:
    """Everything that all photos of one patient share."""

    layout: Layout
    melanin: float
    origin: tuple[float, float]
    sites: tuple[str, ...]
    hairs: int
    cloth: np.ndarray


def draw_person(
    condition: str, impetigo: bool, fitzpatrick: int, sites: tuple[str, ...], random: np.random.Generator
) -> Person:
    """A new patient: lesions, skin, body sites, hairs, and the two colours of a cloth."""
    return Person(
        layout=draw_layout(condition, impetigo, random),
        melanin=max(0.0, MELANIN[fitzpatrick] + random.normal(0, 0.08)),
        origin=(float(random.uniform(0, 50)), float(random.uniform(0, 50))),
        sites=sites or ("torso",),
        hairs=int(random.choice((0, 0, 8, 25, 60))),
        cloth=(random.uniform(0.12, 0.9, (2, 1)) + random.normal(0, 0.14, (2, 3))).clip(0.05, 0.95).astype(np.float32),
    )


def draw_photo(person: Person, longer_side: int, random: np.random.Generator) -> Image.Image:
    """One RGB photo with its own view, light and camera."""
    plane = _point_camera(person, longer_side, random)
    site = person.sites[random.integers(len(person.sites))]
    maps = Maps(plane.x.shape)
    _draw_skin(maps, plane, person, site)
    draw_lesions(maps, plane, person.layout)
    _draw_hairs(maps, plane, person.hairs, random)
    colour = _reflectance(maps)
    colour *= _relief(maps, plane, random)[..., None]
    if site in LIMB_RADIUS:
        colour = _lay_on_cloth(colour, plane, person, LIMB_RADIUS[site], random)
    return _camera(_light(colour, random), random)


def _point_camera(person: Person, longer_side: int, random: np.random.Generator) -> Plane:
    """A view near one of the lesions, 4 to 11 cm wide, in portrait or landscape format."""
    shape, marks = (longer_side, round(longer_side * 0.75)), person.layout.marks
    target = marks[random.integers(len(marks))]
    width = float(np.exp(random.uniform(np.log(4), np.log(11))))
    aside = random.normal(0, 0.13 * width, size=2)
    held, centre = shape if random.random() < 0.6 else shape[::-1], (target.x + aside[0], target.y + aside[1])
    return Plane.under_camera(held, width, centre, random.normal(0, 0.5), person.origin)


def _draw_skin(maps: Maps, plane: Plane, person: Person, site: str) -> None:
    """Add healthy skin: tone, blotches, furrows, pores and dryness, and dense short hair on the scalp."""
    maps.melanin += person.melanin + 0.07 * plane.noise("clouds", 11) + 0.03 * plane.noise("grain", 9)
    maps.blood += 0.25 + 0.07 * plane.noise("clouds", 14, layer=4)
    maps.height += 0.0032 * plane.noise("lines", 9) + 0.005 * plane.noise("grain", 5)
    maps.scale += 0.12 * np.clip(plane.noise("grain", 8, layer=6) - 1.2, 0, 1)
    if site == "hair":
        curls = np.clip(plane.noise("grain", 4.5, layer=9) + 0.3, 0, 1.5)
        maps.melanin += 1.2 * curls
        maps.height += 0.012 * curls


def _draw_hairs(maps: Maps, plane: Plane, count: int, random: np.random.Generator) -> None:
    """Add single body hairs, all in about the same direction."""
    if not count:
        return
    rows, columns = plane.x.shape
    canvas = Image.new("L", (columns, rows))
    pen = ImageDraw.Draw(canvas)
    combed, length = random.uniform(0, np.pi), 0.8 / plane.pixel
    for x, y, turn, share in random.uniform((0, 0, -0.4, 0.4), (columns, rows, 0.4, 1.3), size=(count, 4)):
        bend = np.linspace(0, 1, 5)
        angle = combed + turn + 0.6 * bend
        points = np.stack([x + length * share * bend * np.cos(angle), y + length * share * bend * np.sin(angle)], 1)
        pen.line([tuple(point) for point in points.tolist()], fill=150)
    maps.melanin += np.asarray(canvas, np.float32) / 255


def _reflectance(maps: Maps) -> np.ndarray:
    """Skin colour ``(H, W, 3)`` in 0-1. Inflammation also darkens skin with much melanin."""
    melanin = np.maximum(maps.melanin + 0.35 * np.clip(maps.blood - 0.3, 0, None) * np.clip(maps.melanin, 0, 1.5), 0)
    absorbed = melanin[..., None] * MELANIN_ABSORBS + np.maximum(maps.blood, 0)[..., None] * BLOOD_ABSORBS
    colour = BLOODLESS * np.exp(-absorbed)
    for cover, paint in ((maps.scale, SCALE_COLOUR), (maps.crust, CRUST_COLOUR)):
        share = np.clip(cover, 0, 0.85)[..., None]
        colour = colour * (1 - share) + paint * share * (0.35 + 0.65 * np.exp(-0.5 * melanin))[..., None]
    return colour


def _relief(maps: Maps, plane: Plane, random: np.random.Generator) -> np.ndarray:
    """Brightness ``(H, W)`` of the relief under a lamp from one side, with a gloss on slopes that face it."""
    slope_y, slope_x = np.gradient(maps.height, plane.pixel)
    towards, strength = random.uniform(0, 2 * np.pi), random.uniform(0.3, 0.9)
    facing = strength * (slope_x * np.cos(towards) + slope_y * np.sin(towards))
    gloss = random.uniform(0, 0.5) * np.clip(facing - 0.12, 0, 1)
    return np.clip(1 + facing, 0.45, 1.5) + gloss


def _lay_on_cloth(
    colour: np.ndarray, plane: Plane, person: Person, radius: float, random: np.random.Generator
) -> np.ndarray:
    """Darken the body part towards its edges and put patterned cloth behind it."""
    rows, columns = colour.shape[:2]
    v, u = np.mgrid[0:rows, 0:columns].astype(np.float32)
    axis, aside = random.normal(0, 0.35), random.normal(0, 0.3) * radius
    along = columns < rows
    across = (u - columns / 2 if along else v - rows / 2) * plane.pixel
    other = (v - rows / 2 if along else u - columns / 2) * plane.pixel
    from_axis = (across - aside + np.tan(axis) * other + 0.15 * plane.noise("clouds", 12, layer=10)) / radius
    rounded = np.sqrt(np.clip(1 - from_axis**2, 0.04, 1))[..., None]
    skin = np.clip((1 - np.abs(from_axis)) * radius / plane.pixel / 1.5, 0, 1)[..., None]
    shadow = 1 - 0.5 * np.exp(-np.clip(np.abs(from_axis) - 1, 0, None)[..., None] * 6)
    return colour * (0.35 + 0.65 * rounded) * skin + _cloth(u, v, person.cloth, random) * shadow * (1 - skin)


def _cloth(u: np.ndarray, v: np.ndarray, colours: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Plain, striped or checked cloth of two colours, ``(H, W, 3)``."""
    turn, period = random.uniform(0, np.pi), random.uniform(6, 30)
    first = np.sin((u * np.cos(turn) + v * np.sin(turn)) * 2 * np.pi / period) > 0
    second = np.sin((v * np.cos(turn) - u * np.sin(turn)) * 2 * np.pi / period) > 0
    kind = random.integers(3)
    pattern = (np.zeros_like(u), first, first.astype(np.float32) * 0.5 + second * 0.5)[kind][..., None]
    weave = 1 + 0.06 * random.standard_normal(u.shape, dtype=np.float32)[..., None]
    return (colours[0] * (1 - pattern) + colours[1] * pattern) * weave


def _light(colour: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Apply exposure, lamp colour, a gradient and dark corners, and sometimes a flash or a shadow."""
    rows, columns = colour.shape[:2]
    v, u = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    from_side = random.uniform(0, 2 * np.pi)
    lit = 1 + random.uniform(0, 0.3) * (u * np.cos(from_side) + v * np.sin(from_side))
    lit *= 1 - random.uniform(0, 0.3) * (u * u + v * v) / 2
    if random.random() < 0.3:
        flash_u, flash_v = random.uniform(-0.5, 0.5, 2)
        lit += random.uniform(0.1, 0.4) * np.exp(-((u - flash_u) ** 2 + (v - flash_v) ** 2) * 3)
    if random.random() < 0.25:
        edge = u * np.cos(from_side + 1) + v * np.sin(from_side + 1) - random.uniform(-0.4, 0.8)
        lit *= 1 - random.uniform(0.2, 0.5) / (1 + np.exp(-edge * random.uniform(4, 15)))
    exposure = np.exp(random.normal(0.05, 0.22))
    warmth, tint = random.normal(0, 0.07), random.normal(0, 0.025)
    lamp = np.exp(np.array([warmth, tint, -warmth]))
    return colour * (exposure * lit[..., None] * lamp).astype(np.float32)


def _camera(colour: np.ndarray, random: np.random.Generator) -> Image.Image:
    """Apply out-of-focus blur, sensor noise, and a tone curve that keeps the highlights."""
    blur = random.uniform(0, 1.1) * max(colour.shape) / 160
    if blur > 0.25:
        colour = gaussian_filter(colour, (blur, blur, 0))
    colour = colour + random.uniform(0.004, 0.025) * random.standard_normal(colour.shape, dtype=np.float32)
    rolled = np.where(colour > 0.8, 0.8 + 0.2 * np.tanh((colour - 0.8) / 0.2), colour)
    return Image.fromarray((np.clip(rolled, 0, 1) * 255 + 0.5).astype(np.uint8))
