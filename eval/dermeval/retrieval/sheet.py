"""The contact sheet: the query at the left, similar cases beside it, each with its similarity and labels."""

import math
import textwrap
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

COLUMNS = 5
TILE_INCHES, CAPTION_INCHES, FOOT_LINE_INCHES, FOOT_LETTERS_AN_INCH = 2.1, 0.65, 0.1, 22
READING = "Ranked by the encoder's similarity, which is no diagnosis."
CAPTION_LETTERS = 34
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")
INK, FAINT, ACCENT = "#1f2328", "#6e7781", "#0969da"


class Tile(NamedTuple):
    """One picture of the sheet with the lines under it: the first is set in bold, the last small."""

    image: Image.Image
    lines: list[str]


class Block(NamedTuple):
    """One query (None: its picture is out of reach) and its hits."""

    query: Tile | None
    hits: Sequence[Tile]


def caption(row: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Lines under one tile: rank and similarity, labels and skin type, the file's name."""
    facts = [str(row[name]) for name in labels if pd.notna(row.get(name))]
    if pd.notna(row.get("fitzpatrick")):
        facts.append(f"skin type {SKIN_TYPES[int(row['fitzpatrick']) - 1]}")
    head = "query" if row["rank"] is None else f"{row['rank']}   {row['similarity']:.3f}"
    return [head, ", ".join(facts) or "no label", str(row["image_id"]).rsplit("/", 1)[-1]]


def draw_sheet(path: Path, blocks: Sequence[Block], notices: Sequence[dict[str, Any]]) -> None:
    """Write the sheet as PNG, atomically: each query at the left, its hits in rows of five at the right."""
    columns = min(COLUMNS, max(1, *(len(block.hits) for block in blocks)))
    tiles = [tile for block in blocks for tile in (block.query, *block.hits) if tile]
    tall = TILE_INCHES * max(min(1.0, tile.image.height / tile.image.width) for tile in tiles) + CAPTION_INCHES
    rows = [max(1, math.ceil(len(block.hits) / columns)) for block in blocks]
    foot = sheet_foot(notices, round((columns + 1) * TILE_INCHES * FOOT_LETTERS_AN_INCH))
    below = 0.15 + FOOT_LINE_INCHES * len(foot)
    height = sum(rows) * tall + below
    figure = Figure(figsize=((columns + 1) * TILE_INCHES, height), facecolor="white", dpi=150)
    grid = figure.add_gridspec(
        sum(rows),
        columns + 1,
        left=0.01,
        right=0.995,
        bottom=(below + CAPTION_INCHES) / height,
        top=1 - 0.1 / height,
        hspace=CAPTION_INCHES / (tall - CAPTION_INCHES),
        wspace=0.06,
    )
    for number, block in enumerate(blocks):
        first = sum(rows[:number])
        if block.query:
            _draw_tile(figure.add_subplot(grid[first, 0]), block.query, ACCENT)
        for position, tile in enumerate(block.hits):
            row, column = divmod(position, columns)
            _draw_tile(figure.add_subplot(grid[first + row, column + 1]), tile, None)
    figure.text(0.01, 0.1 / height, _plain("\n".join(foot)), fontsize=6, color=FAINT)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "dermeval"})


def sheet_foot(notices: Sequence[dict[str, Any]], letters: int) -> list[str]:
    """Lines under the sheet: how to read it, whether it must stay here, and whose pictures these are."""
    closed = ", ".join(licences.restricted(notices))
    text = [READING]
    text += [f"Do not pass this sheet on: the licence keeps pictures of {closed} where they are."] if closed else []
    text += [f"{entry['dataset']}: {entry['name']}. {entry['attribution']}" for entry in notices]
    return [line for part in text for line in textwrap.wrap(part, letters)]


def _plain(text: str) -> str:
    """Text as matplotlib sets it letter by letter: ``$`` would begin a formula."""
    return text.replace("$", r"\$").encode("utf-8", "replace").decode()


def _draw_tile(axes: Axes, tile: Tile, frame: str | None) -> None:
    """One picture with its caption below."""
    axes.imshow(np.asarray(tile.image), interpolation="antialiased")
    axes.set_anchor("NW")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2)
    for number, line in enumerate(tile.lines):
        last = number == len(tile.lines) - 1
        size, colour = (8.5, INK) if number == 0 else (6, FAINT) if last else (7, INK)
        axes.annotate(
            _plain(line if len(line) <= CAPTION_LETTERS else line[: CAPTION_LETTERS - 1] + "…"),
            (0, 0),
            xytext=(0, -9.5 - 10.5 * number),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=size,
            fontweight="normal" if number else "bold",
            color=colour,
        )
