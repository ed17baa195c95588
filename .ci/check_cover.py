"""Looks at a cover video: its streams, its length, that it is neither silent nor black nor frozen, and its record."""

import json
import sys
from pathlib import Path

import av
import numpy as np


def main(video: Path, seconds: float) -> None:
    with av.open(str(video)) as file:
        kinds = sorted(s.type for s in file.streams)
        assert kinds == ["audio", "video"], f"streams are {kinds}"
        picture = file.streams.video[0]
        assert picture.codec_context.name == "h264" and picture.codec_context.pix_fmt == "yuv420p"
        fps, size = float(picture.average_rate), (picture.width, picture.height)
        frames = [f.to_ndarray(format="gray") for f in file.decode(video=0)]
        assert "AI-generated" in file.metadata.get("comment", ""), f"no mark in {file.metadata}"
    with av.open(str(video)) as file:
        rate = file.streams.audio[0].rate
        sound = np.concatenate([f.to_ndarray().mean(0) for f in file.decode(audio=0)])
    shown, heard = len(frames) / fps, len(sound) / rate
    assert abs(shown - seconds) < 0.1, f"{shown:.2f} s of pictures, wanted {seconds}"
    assert abs(heard - seconds) < 0.1, f"{heard:.2f} s of sound, wanted {seconds}"
    level = 20 * np.log10(np.sqrt(np.mean(sound**2)) + 1e-9)
    assert level > -40, f"silent: {level:.1f} dB"
    light = np.array([f.mean() for f in frames])
    assert light.min() > 8, f"black: {light.min():.1f}"
    moved = np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(frames, frames[5:])])
    assert moved > 0.3, f"frozen: {moved:.2f}"
    story = json.loads(video.with_suffix(".json").read_text())
    assert story["ai_generated"] and story["licences"] and story["stages"] and story["inputs"]
    print(f"{video}: {shown:.2f} s, {size[0]}x{size[1]}, sound {level:.1f} dB, motion {moved:.2f}: good")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
