"""Listening: vocals in, what the network hears for each of its frames out. Memory does not grow with the song.

    heard = listen(vocals, nets, folder, clip=clip, options=options, reporter=reporter)
    heard.tokens(100, 125)                       # [25, 32, 1024] of frames 100 … 124
    heard.buckets(100, 125)                      # [25, 2], before `dynamic_scale`
    heard.activity                               # where somebody sings, bool [F]

vocals → 16 kHz mono → log-mel, 30 s at a time → whisper's states (50 a second) → for frame i (12.5 a second) the tokens
of states 4i-4 … 4i+6 and the movement of 4i-24 … 4i+26, nothing before the song and after it.

Everything is kept in files in `folder`: a run that was killed goes on where it was, a finished one is read again.
What is done is written to `hearing.json` after what it tells about, so that a torn write is done once more.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vividcover.files import canonical, sha256_file, storage_errors, write_text
from vividcover.patience import Patient
from vividcover.portrait.sonic import sound
from vividcover.portrait.sonic.activity import Meter, activity_of
from vividcover.portrait.sonic.config import (
    AUDIO_HOP,
    BUCKET_PAD,
    BUCKET_REACH,
    TOKEN_PAD,
    TOKEN_REACH,
    AudioConfig,
    SonicOptions,
)
from vividcover.portrait.sonic.heard import (
    DONE,
    DTYPES,
    LEVELS,
    MOVES,
    TOKENS,
    Heard,
    finished,
    read_json,
    size_of,
)
from vividcover.portrait.sonic.mel import log_mel
from vividcover.portrait.sonic.speech import BUCKETS
from vividcover.progress import Part
from vividcover.song.media import look
from vividcover.workspace import Reporter

if TYPE_CHECKING:
    from vividcover.portrait.sonic.opening import Sonic

FORMAT = 1  # of the files; part of their key
STATE = 320  # samples for each of whisper's states: 50 a second
STRIDE = 4  # states from one frame of the network to the next
OVERLAP, FADE = 250, 150  # states that two pieces share with `smooth_listening`, and over which one becomes the other
BATCH = 64  # frames whose tokens are made at once; the same everywhere, so that the bits are
SOUND, STATES, JOURNAL = "sound.f32", "states.f32", "hearing.json"  # beside what `heard.py` reads


def frames_in(samples: int) -> int:
    """Frames of the network in so many samples at 16 kHz: two of 25 a second for each; at least one."""
    return max(1, samples // AUDIO_HOP // 2)


@dataclass(frozen=True)
class Piece:
    """What whisper hears at once: states from `start` on, of which `first` … `stop` are kept.

    The first `fade` of those are mixed with what the piece before says.
    """

    start: int
    first: int
    stop: int
    fade: int = 0


def pieces(states: int, samples: int, length: int, *, smooth: bool = False) -> list[Piece]:
    """The pieces of `length` states each that give `states` of a song of `samples`.

    As published they follow one another, and the last one is filled up with silence. `smooth`: they overlap by 5 s and
    pass into one another over 3 s; the last one ends where the song does.
    """
    if not smooth or samples <= length * STATE:
        return [Piece(start, start, min(start + length, states)) for start in range(0, states, length)]
    last = -(-samples // STATE) - length
    overlap = min(OVERLAP, length // 2)
    starts = [*range(0, last, length - overlap), last]
    fade = min(FADE, overlap)
    middles = [
        (after + before + length) // 2 for before, after in itertools.pairwise(starts)
    ]  # of what two pieces share
    firsts = [0, *(middle - fade // 2 for middle in middles)]
    return [
        Piece(start, first, min(stop, states), fade if first else 0)
        for start, first, stop in zip(starts, firsts, [*firsts[1:], states])
    ]


def listen(
    vocals: Path, nets: Sonic, folder: Path, *, clip: Tensor, options: SonicOptions, reporter: Reporter
) -> Heard:
    """Hears the vocals (a working file, or any file with sound) of a still with CLIP's vector `clip` [1, C].

    Raises `AudioError` for what is no sound or shorter than 0.08 s; `Canceled` within a second.
    """
    look(vocals)
    with storage_errors("what was heard", folder), Patient(reporter) as patient:
        folder.mkdir(parents=True, exist_ok=True)
        key = patient.call(_key, vocals, nets, clip, options)  # reads all of the sound, and opens the nets
        if not finished(folder, key):
            with torch.inference_mode():
                _Listener(vocals, nets, folder, clip, options, reporter, patient, key).run()
        return Heard(folder)


class _Listener:
    """One listening, step by step; `journal` tells how far it came."""

    def __init__(
        self, vocals: Path, nets: Sonic, folder: Path, clip: Tensor, options: SonicOptions, reporter: Reporter,
        patient: Patient, key: str,
    ) -> None:  # fmt: skip
        self.vocals, self.nets, self.folder, self.reporter, self.patient = vocals, nets, folder, reporter, patient
        self.config: AudioConfig = nets.audio_config
        self.clip, self.smooth, self.key = clip.float().cpu(), options.smooth_listening, key
        self.journal: dict[str, Any] = {"key": key, "samples": 0, "seconds": 0.0, "pieces": 0, "frames": 0}
        found = read_json(folder / JOURNAL)
        for name in (SOUND, JOURNAL, DONE):
            for leftover in (*folder.glob(f".{name}.*.part"), folder / f"{name}.wav"):  # of a run that was killed
                leftover.unlink(missing_ok=True)
        if found.get("key") == key and self._still_there(found):
            self.journal = found
            return
        for name in (DONE, JOURNAL, SOUND, STATES, TOKENS, MOVES, LEVELS):
            (folder / name).unlink(missing_ok=True)
        write_text(folder / JOURNAL, canonical(self.journal))

    def _still_there(self, journal: dict[str, Any]) -> bool:
        """Whether the files hold what the journal tells of; anybody may have tidied up in between."""
        samples, done, frames = int(journal["samples"]), int(journal["pieces"]), int(journal["frames"])
        if not samples:
            return True
        todo = pieces(2 * (samples // AUDIO_HOP), samples, self.config.positions, smooth=self.smooth)
        wanted = {
            SOUND: 4 * samples, STATES: 4 * self._width * todo[done - 1].stop if done else 0, LEVELS: 1,
            TOKENS: frames * self._each, MOVES: frames * BUCKETS * 4,
        }  # fmt: skip
        return all(size_of(self.folder / name) >= size for name, size in wanted.items() if size)

    def run(self) -> None:
        if not self.journal["samples"]:
            self._resample()
        self.frames = frames_in(self.samples)
        self.states = 2 * (self.samples // AUDIO_HOP)  # whisper's states that count; behind them is nothing
        self._hear()
        self._understand()
        about = {"key": self.key, "frames": self.frames, "seconds": self.journal["seconds"], "dtype": self._dtype()}
        write_text(self.folder / DONE, canonical({**about, **_sizes(self.config)}))
        for name in (SOUND, STATES, JOURNAL):
            (self.folder / name).unlink(missing_ok=True)
        self.reporter.progress(1.0, "heard the vocals")

    @property
    def samples(self) -> int:
        return int(self.journal["samples"])

    def _did(self, **steps: Any) -> None:
        self.journal.update(steps)
        write_text(self.folder / JOURNAL, canonical(self.journal))

    def _dtype(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype == self.nets.dtype)

    # --- sound -------------------------------------------------------------------------------------------------------

    def _resample(self) -> None:
        meter = Meter()
        reporter = Part(self.reporter, 0.0, 0.1, "hearing the vocals")
        samples, seconds = sound.to_file(self.vocals, self.folder / SOUND, reporter, meter.hear)
        _write(self.folder / LEVELS, 0, meter.levels().astype("<f4").tobytes())
        if not activity_of(meter.levels(), frames_in(samples)).any():
            self.reporter.note(f"Nobody is heard singing in {self.vocals.name}: the mouth will hardly move.")
        self._did(samples=samples, seconds=seconds)

    # --- whisper -----------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        todo = pieces(self.states, self.samples, self.config.positions, smooth=self.smooth)
        done = int(self.journal["pieces"])
        before = self._states_of(todo[done - 1]) if 0 < done < len(todo) and todo[done].fade else None
        for number in range(done, len(todo)):
            piece = todo[number]
            states = self._states_of(piece)
            kept = states[piece.first - piece.start : piece.stop - piece.start]
            if piece.fade and before is not None:
                kept = kept.copy()
                weight = ((np.arange(piece.fade) + 0.5) / piece.fade).astype(np.float32)[: len(kept), None, None]
                shift = piece.first - todo[number - 1].start
                kept[: len(weight)] *= weight
                kept[: len(weight)] += (1 - weight) * before[shift : shift + len(weight)]
            _write(self.folder / STATES, piece.first * self._width * 4, np.ascontiguousarray(kept, "<f4").tobytes())
            before = states
            self._did(pieces=number + 1)
            now, whole = _clock(piece.stop / 50), _clock(self.states / 50)
            self.reporter.progress(0.1 + 0.5 * (number + 1) / len(todo), f"hearing the vocals, {now} of {whole}")

    @property
    def _each(self) -> int:
        """Bytes of a frame's tokens."""
        return self.config.tokens * self.config.context * self.nets.dtype.itemsize

    @property
    def _width(self) -> int:
        """Numbers in the states of one moment."""
        return (self.config.layers + 1) * self.config.width

    def _states_of(self, piece: Piece) -> Any:
        length = self.config.positions * STATE
        first = piece.start * STATE
        samples = sound.read(self.folder / SOUND, first, min(length, self.samples - first))
        aligned = torch.from_numpy(samples).clone()  # a transform's last bits hang on where its numbers lie
        return self.patient.call(self._encode, aligned)

    def _encode(self, samples: Tensor) -> Any:
        with torch.inference_mode():
            mel = log_mel(samples, mels=self.config.mels, length=self.config.positions * STATE)
            net = self.nets.whisper
            return net(mel[None].to(_device(net)))[0].float().cpu().numpy()

    # --- tokens and buckets ------------------------------------------------------------------------------------------

    def _understand(self) -> None:
        for start in range(int(self.journal["frames"]), self.frames, BATCH):
            stop = min(start + BATCH, self.frames)
            tokens, buckets = self.patient.call(self._batch, start, stop)
            _write(self.folder / TOKENS, start * self._each, _bytes(tokens.to(self.nets.dtype)))
            _write(self.folder / MOVES, start * BUCKETS * 4, _bytes(buckets))
            if stop == self.frames:
                silent = self.patient.call(self._silent)
                _write(self.folder / TOKENS, self.frames * self._each, _bytes(silent.to(self.nets.dtype)))
            self._did(frames=stop)
            self.reporter.progress(0.6 + 0.4 * stop / self.frames, "hearing what is sung")

    def _batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        layers = self.config.layers + 1
        with torch.inference_mode():
            near = self._around(start, stop, TOKEN_PAD[0], TOKEN_REACH)  # [n, layers + 1, width, 10]
            tokens = self.nets.tokens(near.permute(0, 3, 1, 2).to(_device(self.nets.tokens)))
            far = self._around(start, stop, BUCKET_PAD[0], BUCKET_REACH)[:, layers - 1]  # [n, width, 50]
            device = _device(self.nets.buckets)
            buckets = self.nets.buckets(far.transpose(1, 2).to(device), self.clip.to(device))
            return tokens.cpu(), buckets.float().cpu()

    def _around(self, start: int, stop: int, before: int, reach: int) -> Tensor:
        """The `reach` states around each frame, [n, layers + 1, width, reach]; zeros beyond the song."""
        first, count = STRIDE * start - before, STRIDE * (stop - start - 1) + reach
        held = min(count, max(self.states - first, 0))
        values = np.zeros((count, self._width), np.float32)
        values[:held] = sound.read(self.folder / STATES, first * self._width, held * self._width).reshape(held, -1)
        states: Tensor = torch.from_numpy(values).view(count, -1, self.config.width).unfold(0, reach, STRIDE)
        return states

    def _silent(self) -> Tensor:
        with torch.inference_mode():
            tokens: Tensor = self.nets.tokens.silent().cpu()
        return tokens


def _device(net: torch.nn.Module) -> torch.device:
    return next(net.parameters()).device


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _write(path: Path, offset: int, data: bytes) -> None:
    """Puts `data` at a place of a file and waits for the disk; what was there is replaced, all else stays."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        view = memoryview(data)
        while view:
            count = os.pwrite(handle, view, offset)
            view, offset = view[count:], offset + count
        os.fsync(handle)
    finally:
        os.close(handle)


def _sizes(config: AudioConfig) -> dict[str, int]:
    return {"tokens": config.tokens, "context": config.context}


def _key(vocals: Path, nets: Sonic, clip: Tensor, options: SonicOptions) -> str:
    """What the files hang on: the sound, the still, the nets (known by their last layers), how it is listened."""
    digest = hashlib.sha256()
    parts: list[Tensor] = [clip, nets.tokens.proj3.bias, nets.tokens.norm.weight, nets.buckets.proj3.weight]
    parts += [nets.whisper.model.encoder.layer_norm.weight, nets.whisper.model.encoder.layer_norm.bias]
    for part in parts:
        digest.update(_bytes(part.detach().float().cpu()))
    about = {
        "format": FORMAT, "sound": sha256_file(vocals), "nets": digest.hexdigest(), "dtype": str(nets.dtype),
        "smooth": options.smooth_listening, "config": asdict(nets.audio_config),
    }  # fmt: skip
    return hashlib.sha256(canonical(about).encode()).hexdigest()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
