"""The contact sheet: the query at the left, similar cases beside it, each with its similarity and labels."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dermssl import licences
from dermssl.atomic import atomic_file
from dermssl.dataset.dataset import Dataset

COLUMNS = 5
TILE_INCHES = 2.1
CAPTION_INCHES = 0.62
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")
INK, FAINT, PAPER = "#1f2328", "#6e7781", "#ffffff"


class Tile(NamedTuple):
    """One picture of the sheet with the lines under it: the first is set in bold, the last small."""

    image: Image.Image
    lines: list[str]


class Block(NamedTuple):
    """One query (None: its picture is out of reach) and its hits."""

    query: Tile | None
    hits: Sequence[Tile]


def stored_image(dataset: Dataset, image_id: str) -> Image.Image:
    """The stored image of one id."""
    return dataset.images.image(int(np.flatnonzero(dataset.column("image_id") == image_id)[0]))


def caption(row: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Lines under one tile: rank and similarity, labels and skin type, the file's name."""
    facts = [str(row[name]) for name in labels if pd.notna(row.get(name))]
    if pd.notna(row.get("fitzpatrick")):
        facts.append(f"skin type {SKIN_TYPES[int(row['fitzpatrick']) - 1]}")
    head = "query" if row["rank"] is None else f"{row['rank']}   {row['similarity']:.3f}"
    return [head, ", ".join(facts) or "no label", str(row["image_id"]).rsplit("/", 1)[-1]]


def draw(path: Path, blocks: Sequence[Block], notices: Sequence[dict[str, Any]]) -> None:
    """Write the sheet as PNG, atomically: each query large at the left, its hits in rows of five at the right."""
    columns = min(COLUMNS, max(1, *(len(block.hits) for block in blocks)))
    left = TILE_INCHES * (1.6 if any(len(block.hits) > COLUMNS for block in blocks) else 1.0)
    heights = [_height(block, left) for block in blocks]
    width, height = left + 0.35 + columns * TILE_INCHES, sum(heights) + 0.3
    figure = Figure(figsize=(width, height), facecolor=PAPER, dpi=150)
    for number, block in enumerate(blocks):
        _draw_block(figure, block, left, 0.1 + sum(heights[:number]))
    figure.text(0.1 / width, 0.1 / height, _plain(foot(notices)), fontsize=6, color=FAINT)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "dermeval"})


def _tile_height(block: Block) -> float:
    return TILE_INCHES * max((_aspect(tile) for tile in block.hits), default=1.0) + CAPTION_INCHES


def _height(block: Block, left: float) -> float:
    rows = math.ceil(len(block.hits) / COLUMNS)
    query = left * _aspect(block.query) + CAPTION_INCHES if block.query else 0.0
    return max(rows * _tile_height(block), query)


def _draw_block(figure: Figure, block: Block, left: float, top: float) -> None:
    if block.query:
        _place(figure, block.query, (0.1, top, left - 0.1), "#0969da")
    for number, tile in enumerate(block.hits):
        row, column = divmod(number, COLUMNS)
        corner = (left + 0.3 + column * TILE_INCHES, top + row * _tile_height(block))
        _place(figure, tile, (*corner, TILE_INCHES - 0.12), None)


def _plain(text: str) -> str:
    """Text as matplotlib sets it letter by letter: ``$`` would begin a formula."""
    return text.replace("$", r"\$").encode("utf-8", "replace").decode()


def foot(notices: Sequence[dict[str, Any]]) -> str:
    """What stands under the sheet: how to read it, whose pictures these are, and which must stay here."""
    sources = "; ".join(f"{entry['dataset']}: {entry['name']}" for entry in notices)
    text = f"Ranked by the encoder's similarity, which is no diagnosis.  {sources}"
    closed = ", ".join(licences.restricted(notices))
    return text + (
        f"\nDo not pass this sheet on: the licence keeps pictures of {closed} where they are." if closed else ""
    )


def _aspect(tile: Tile) -> float:
    """Height over width, at most 1: a portrait image is drawn narrower instead of taller."""
    return min(1.0, tile.image.height / tile.image.width)


def _place(figure: Figure, tile: Tile, place: tuple[float, float, float], frame: str | None) -> None:
    """One picture with its caption below; ``place`` is left, top (from the page's top) and width in inches."""
    (left, top, side), (width, height) = place, figure.get_size_inches()
    tall = side * _aspect(tile)
    axes: Axes = figure.add_axes((left / width, 1 - (top + tall) / height, side / width, tall / height))
    axes.imshow(np.asarray(tile.image), interpolation="antialiased")
    axes.set_anchor("W")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2)
    for number, line in enumerate(tile.lines):
        first, last = number == 0, number == len(tile.lines) - 1
        axes.annotate(
            _plain(line if len(line) <= 34 else line[:33] + "…"),
            (0, 0),
            xytext=(0, -9.5 - 10.5 * number),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8.5 if first else 7 if not last else 6,
            fontweight="bold" if first else "normal",
            color=FAINT if last and not first else INK,
        )
