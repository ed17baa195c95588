"""The training set: clips of a voice on the disk, and batches of them in memory.

    clips = TrainingSet.open(folder)
    batch = clips.batch([3, 1, 4], config, seed=1234, epoch=1)

Three files of float32 numbers, one clip after the other, and `set.json`, which says where each begins. They are mapped,
not read: a set may be larger than memory. `prepare.py` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vividcover.files import canonical, write_text
from vividcover.voice.rvc.config import RvcConfig
from vividcover.voice.rvc.mel import spectrogram
from vividcover.voice.rvc.steps import Batch, draw
from vividcover.voice.rvc.tuning import coarse

FORMAT = 1
STREAMS = ("wave", "features", "f0")
MOST_FRAMES = 900  # of a clip, 9 s
KEPT_FRAMES = 720_000  # 2 h: a set that a GPU keeps, in 7 GB


@dataclass(frozen=True, slots=True)
class Clip:
    """Where a clip begins in each file, and how much it has there."""

    name: str
    wave: int  # samples before it
    samples: int
    features: int  # rows before it, at 50 Hz
    rows: int
    f0: int  # frames before it, at 100 Hz
    frames: int
    speaker: int = 0
    mute: bool = False  # silence that is added so that a voice can be silent

    def usable(self, hop: int) -> int:
        """Frames for which there is everything."""
        return min(2 * self.rows, self.frames, self.samples // hop, MOST_FRAMES)


class TrainingSet:
    """`clips` in the order they were heard, mute ones last; `report` says what became of the recordings."""

    def __init__(self, folder: Path, clips: Sequence[Clip], width: int, fingerprint: str, report: Mapping[str, Any]):
        self.folder, self.clips, self.width = folder, tuple(clips), width
        self.fingerprint, self.report = fingerprint, report
        wave, features, f0 = (_map(folder / f"{name}.f32") for name in STREAMS)
        self.wave, self.features, self.f0 = wave, features.reshape(-1, width), f0
        self._kept: dict[int, tuple[Tensor, ...]] = {}  # clips on the device

    def __len__(self) -> int:
        return len(self.clips)

    @classmethod
    def open(cls, folder: Path) -> TrainingSet:
        """Raises `OSError`, `ValueError` or `KeyError` where there is no whole set."""
        story = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        if story["format"] != FORMAT:
            raise ValueError(f"a set of format {story['format']}")
        if any((folder / f"{name}.f32").stat().st_size != size for name, size in story["sizes"].items()):
            raise ValueError("a set that is cut short")
        clips = [Clip(**clip) for clip in story["clips"]]
        return cls(folder, clips, story["width"], story["fingerprint"], story["report"])

    def content(self) -> NDArray[np.float32]:
        """The features of every clip that is not mute [N, C]: what the index is made of."""
        rows = [self.features[c.features : c.features + c.rows] for c in self.clips if not c.mute]
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def batch(self, ids: Sequence[int], config: RvcConfig, *, seed: int, epoch: int, pitch: bool = True,
              padded: int = 0, device: torch.device | str = "cpu") -> Batch:  # fmt: skip
        """Clips side by side, at least `padded` frames long. Without `pitch`, for voices without one.

        A clip's spectrogram is made on the device; on a GPU, clips stay there when the set is small enough.
        """
        clips = [self._clip(i, config, torch.device(device)) for i in ids]
        lengths = [f0.shape[-1] for _, f0, *_ in clips]
        longest = max([*lengths, padded])
        features, f0, steps, wave, spec = (
            torch.stack([F.pad(part, (0, longest * size - part.shape[-1])) for part in parts])
            for parts, size in zip(zip(*clips), (1, 1, 1, config.hop, 1))
        )
        drawn = [draw(config, seed, epoch, i, length, longest) for i, length in zip(ids, lengths)]
        return Batch(
            features.mT, torch.tensor(lengths, device=device), steps if pitch else None, f0 if pitch else None, spec,
            wave, torch.tensor([self.clips[i].speaker for i in ids], device=device),
            torch.stack([one["noise"] for one in drawn]).to(device),
            torch.tensor([one["start"] for one in drawn], device=device),
            torch.stack([one["source_noise"] for one in drawn]).to(device),
        )  # fmt: skip

    def let_go(self) -> None:
        """Of the clips that a GPU keeps."""
        self._kept.clear()

    def _clip(self, number: int, config: RvcConfig, device: torch.device) -> tuple[Tensor, ...]:
        """features [C, T], f0 [T], its coarse steps [T], wave [1, T*hop], spec [n_fft/2+1, T]."""
        if number in self._kept:
            return self._kept[number]
        clip = self.clips[number]
        frames = clip.usable(config.hop)
        whole = torch.from_numpy(self.wave[clip.wave : clip.wave + clip.samples].copy()).to(device)
        heard = self.features[clip.features : clip.features + clip.rows].repeat(2, axis=0)[:frames]
        f0 = self.f0[clip.f0 : clip.f0 + frames].copy()
        found = (
            torch.from_numpy(heard).to(device).mT, torch.from_numpy(f0).to(device),
            torch.from_numpy(coarse(f0)).to(device), whole[None, : frames * config.hop],
            spectrogram(whole[None], config.n_fft, config.hop)[0, :, :frames],
        )  # fmt: skip
        if device.type == "cuda" and len(self.f0) < KEPT_FRAMES:
            self._kept[number] = found
        return found


class SetWriter:
    """Adds clips to the three files; `close` makes a set of them."""

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "set.json").unlink(missing_ok=True)
        self.folder, self.width, self.clips = folder, width, list[Clip]()
        self._files = {name: (folder / f"{name}.f32").open("wb") for name in STREAMS}
        self._at = dict.fromkeys(STREAMS, 0)

    def add(
        self, name: str, wave: NDArray[np.float32], features: NDArray[np.float32], f0: NDArray[np.float32],
        *, speaker: int = 0, mute: bool = False,
    ) -> None:  # fmt: skip
        """wave [N] at the voice's rate, features [T50, C], f0 [T100]."""
        at = self._at
        self.clips.append(
            Clip(name, at["wave"], len(wave), at["features"], len(features), at["f0"], len(f0), speaker, mute)
        )
        for stream, array in (("wave", wave), ("features", features), ("f0", f0)):
            self._files[stream].write(np.ascontiguousarray(array, "<f4").tobytes())
            at[stream] += len(array)

    def close(self, fingerprint: str, report: Mapping[str, Any]) -> TrainingSet:
        self.stop()
        story = {
            "format": FORMAT, "fingerprint": fingerprint, "width": self.width, "report": dict(report),
            "sizes": {name: (self.folder / f"{name}.f32").stat().st_size for name in STREAMS},
            "clips": [asdict(clip) for clip in self.clips],
        }  # fmt: skip
        write_text(self.folder / "set.json", canonical(story))
        return TrainingSet.open(self.folder)

    def stop(self) -> None:
        for file in self._files.values():
            file.close()


def _map(path: Path) -> NDArray[np.float32]:
    if not path.stat().st_size:
        return np.zeros(0, np.float32)
    return np.memmap(path, "<f4", mode="r")
