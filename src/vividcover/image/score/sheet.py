"""A contact sheet: many pictures small on one, each with a line below it, the chosen ones framed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vividcover.files import aside
from vividcover.provenance import save_picture

CELL, GAP, TEXT = 256, 12, 22  # px: side of a picture, space around it, height of its line
COLUMNS = 6
MOST = 240  # pictures on a sheet: 40 lines
PAPER, INK, FRAME = (24, 24, 26), (220, 220, 220), (255, 196, 0)
QUALITY = 88


@dataclass(frozen=True)
class Cell:
    picture: Path
    text: str
    chosen: bool = False


def write_sheet(cells: Sequence[Cell], out: Path, *, engine: str, description: str) -> Path:
    """A JPEG with the first 240 of `cells`, marked as AI-generated. Raises `StorageError`."""
    cells = cells[:MOST]
    columns = min(COLUMNS, max(1, len(cells)))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (GAP + columns * (CELL + GAP), GAP + rows * (CELL + TEXT + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for i, cell in enumerate(cells):
        x, y = GAP + i % columns * (CELL + GAP), GAP + i // columns * (CELL + TEXT + GAP)
        with Image.open(cell.picture) as picture:
            picture.draft("RGB", (2 * CELL, 2 * CELL))
            small = ImageOps.contain(picture.convert("RGB"), (CELL, CELL))
        sheet.paste(small, (x + (CELL - small.width) // 2, y + (CELL - small.height) // 2))
        if cell.chosen:
            draw.rectangle((x - 4, y - 4, x + CELL + 3, y + CELL + 3), outline=FRAME, width=4)
        text = cell.text
        while text and draw.textlength(text, font) > CELL:
            text = text.removesuffix("…")[:-1] + "…"
        draw.text((x, y + CELL + 3), text, INK, font)
    with aside(out) as part:
        save_picture(np.asarray(sheet), part, format="jpg", quality=QUALITY, engine=engine, description=description)
    return out
