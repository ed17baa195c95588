"""Draws docs/images/cover.png, the picture that the README begins with, from what `make demo` made.

    python docs/make_cover_picture.py demo/cover.mp4

Left: two of the photographs that went in. Middle: the still. Right: frames of the cover. Below: the vocals.
"""

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

HEIGHT, GAP, WAVE = 480, 8, 64  # px
GROUND, LINE = (16, 14, 24), (236, 120, 200)


def frames(video: Path, count: int) -> list[Image.Image]:
    """`count` frames of the video from its second quarter on, 14 apart."""
    with av.open(str(video)) as file:
        total = file.streams.video[0].frames
        wanted = {total // 4 + 14 * i: i for i in range(count)}
        return [f.to_image() for n, f in enumerate(file.decode(video=0)) if n in wanted]


def waveform(sound: Path, width: int) -> Image.Image:
    """Peaks of a float32 WAV over its whole length."""
    from vividcover.song.pcm import PcmReader

    picture = Image.new("RGB", (width, WAVE), GROUND)
    draw = ImageDraw.Draw(picture)
    with PcmReader(sound) as reader:
        for x in range(width):
            start = x * reader.frames // width
            peak = float(np.abs(reader.read(start, max(1, reader.frames // width))).max())
            half = max(1, peak * WAVE * 0.48)
            draw.line((x, WAVE / 2 - half, x, WAVE / 2 + half), LINE)
    return picture


def main(video: Path) -> None:
    root = Path(__file__).parents[1]
    small = (HEIGHT - GAP) // 2
    columns = []
    photos = [Image.open(root / "sample" / "photos" / name) for name in ("02.jpg", "05.jpg")]
    columns.append([fitted(p, small) for p in photos])
    columns.append([fitted(Image.open(video.parent / "parts" / "still.png"), HEIGHT)])
    shown = [fitted(f, small) for f in frames(video, 6)]
    columns += [shown[0:2], shown[2:4], shown[4:6]]
    width = sum(c[0].width for c in columns) + GAP * (len(columns) - 1)
    sheet = Image.new("RGB", (width, HEIGHT + GAP + WAVE), GROUND)
    x = 0
    for column in columns:
        y = 0
        for picture in column:
            sheet.paste(picture, (x, y))
            y += picture.height + GAP
        x += column[0].width + GAP
    sheet.paste(waveform(video.parent / "parts" / "vocals.wav", width), (0, HEIGHT + GAP))
    out = root / "docs" / "images" / "cover.png"
    out.parent.mkdir(exist_ok=True)
    sheet.save(out, optimize=True)


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """The middle square, `side` px."""
    cut = min(picture.size)
    left, top = (picture.width - cut) // 2, min((picture.height - cut) // 4, picture.height - cut)
    square = picture.convert("RGB").crop((left, top, left + cut, top + cut))
    return square.resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
