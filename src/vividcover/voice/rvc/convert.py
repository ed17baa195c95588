"""Sings a song's vocals with an RVC voice: the melody, timing and breath of the song, the sound of the person.

    report = convert(vocals, Path("vivi.zip"), out, NeuralConversion(pitch_change="auto"), weights=resolver)

    converter = Converter(Path("vivi.zip"), weights=resolver)       # loaded once, for many songs
    for vocals, out in songs: converter.convert(vocals, out)

    1  the song    as the networks hear it: 16 kHz, mono, without rumble; where there is sound (`pieces.py`)
    2  the melody  tracked, moved to the voice's octave, drawn to notes (`pitch/`, `tuning.py`)
    3  the sound   span by span, two seconds at a time (`singing.py`, `decoder.py`)
    4  as it was   formants, the song's loudness, its rate, its exact length (`formant.py`, `loudness.py`)

What is kept for the whole song is a few numbers per frame: memory does not grow with length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from vividcover.errors import AudioError, ParameterError
from vividcover.files import aside
from vividcover.memory import give_back
from vividcover.song.pcm import PcmReader, PcmWriter
from vividcover.tensors import pick_device, pick_dtype, use_threads
from vividcover.voice.rvc import formant, loudness, parity, tuning
from vividcover.voice.rvc.checkpoint import synthesizer
from vividcover.voice.rvc.decoder import Decoder
from vividcover.voice.rvc.hubert import ContentVec
from vividcover.voice.rvc.opening import Model, open_model
from vividcover.voice.rvc.pieces import Song, Span, spans
from vividcover.voice.rvc.pitch import Tracker
from vividcover.voice.rvc.settings import NeuralConversion
from vividcover.voice.rvc.singing import BLOCK, GPU_BLOCK, Melody, Nets, Performance
from vividcover.workspace import Reporter, Silent

__all__ = ["Converter", "NeuralConversion", "convert"]

Weights = Callable[[str], Path]  # a net's name in the registry → its file; raises `WeightsError`
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Resolver:
    """Where the nets' files are."""

    path: Weights


def convert(
    vocals: Path, model: Path, out: Path, settings: NeuralConversion | None = None, *, weights: Weights,
    device: str = "auto", dtype: str = "auto", threads: int = 0, reporter: Reporter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes `out`: PCM of the length, rate and channels of `vocals`. Returns what was chosen and measured."""
    settings = settings or NeuralConversion()
    settings.check()
    converter = Converter(
        model, weights=weights, device=device, dtype=dtype, threads=threads,
        with_index=settings.index_rate > 0, reporter=reporter,
    )  # fmt: skip
    return converter.convert(vocals, out, settings, reporter=reporter)


class Converter:
    """A voice, loaded. `convert` sings any number of songs with it.

    model    a zip (ours or published), a folder, or a `.pth`
    weights  gives the file of a net by its name: "contentvec", "rmvpe", …
    dtype    "auto" (see `formats`), "fp32", "bf16", "fp16"
    threads  of torch, for the process; 0 leaves them as they are

    Raises `ModelFileError`, `NotFoundError`, `WeightsError`, `EngineError`.
    """

    def __init__(
        self, model: Path | Model, *, weights: Weights, device: str = "auto", dtype: str = "auto", threads: int = 0,
        with_index: bool = True, reporter: Reporter | None = None,
    ) -> None:  # fmt: skip
        place = pick_device(device)
        if threads:
            use_threads(threads)
        self.weights = Resolver(weights)
        self._kept: tuple[dict[str, Any], Tracker] | None = None
        self.model = model if isinstance(model, Model) else open_model(Path(model), with_index=with_index)
        for note in self.model.notes:
            (reporter or Silent()).note(note)
        self.dtype = formats(place, dtype)
        voice = synthesizer(self.model.file, place)
        content = ContentVec.load(self.weights.path("contentvec"), place)
        self.nets = Nets(voice, Decoder(voice.dec, self.dtype), content, self.model.index, place)

    def convert(
        self, vocals: Path, out: Path, settings: NeuralConversion | None = None, *, reporter: Reporter | None = None,
        block: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """One song. `block` is how many frames the vocoder makes at a time (0: what suits the device); the samples are
        the same."""
        settings, reporter = settings or NeuralConversion(), reporter or Silent()
        block = block or (BLOCK if self.nets.device.type == "cpu" else GPU_BLOCK)
        settings.check()
        if settings.speaker >= self.model.file.speakers:
            raise ParameterError(
                f"The voice has no speaker {settings.speaker}.", f"Choose 0 … {self.model.file.speakers - 1}."
            )
        if settings.index_rate and self.nets.index is None:
            reporter.note(f"The voice comes without an index: index_rate={settings.index_rate:g} changes nothing.")
        with (
            PcmReader(Path(vocals)) as reader,
            tempfile.TemporaryDirectory(prefix="vividcover-sing-", dir=Path(out).parent) as folder,
        ):
            if not reader.frames:
                raise AudioError(f"{Path(vocals).name} holds no samples.", "Give a song that is longer.")
            with Song(reader, Path(folder) / "16k.f32", reporter) as song:
                return self._sing(reader, song, Path(out), settings, reporter, block)

    def _sing(
        self, reader: PcmReader, song: Song, out: Path, settings: NeuralConversion, reporter: Reporter, block: int
    ) -> dict[str, Any]:  # fmt: skip
        power = song.power()
        sounding = [Span(0, song.frames)] if settings.parity else spans(power, settings.silence_gate_db)
        heard = self._track(song, sounding, settings, reporter)
        semitones, why = (0.0, "the voice follows no pitch") if heard is None else (
            tuning.choose_pitch(settings, heard, self.model.card)
        )  # fmt: skip
        melody, key = None, None
        if heard is not None:
            melody, key = self._melody(heard, semitones, settings)
        if settings.parity:
            audio = iter([parity.sing(self.nets, np.asarray(song.samples), melody.f0 if melody else None, settings)])
        else:
            audio = self._spans(Performance(self.nets, song, melody, settings, reporter.check), sounding, power, block)
        level, f0 = loudness.half_seconds(power), melody.f0 if melody and not settings.parity else None
        peak = self._write(reader, out, audio, level, f0, settings, song.frames, reporter)
        if not sounding:
            reporter.note(f"Nothing is louder than {settings.silence_gate_db:g} dB: there is nothing to sing.")
        card = self.model.card
        silent: dict[str, Any] = {"low": None, "median": None, "high": None}
        return {
            "engine": "neural", "voice": self.model.name or None, "semitones": semitones, "octave": semitones / 12,
            "octave_why": why, "key": tuning.key_name(key) if key else None,
            "song_f0_hz": tuning.range_of(heard) if heard is not None else (silent if sounding else None),
            "sung_f0_hz": tuning.range_of(melody.f0) if melody else None, "voice_f0_hz": card.get("f0_hz"),
            "method": settings.method, "seed": settings.seed, "device": str(self.nets.device),
            "dtype": str(self.dtype).removeprefix("torch."), "rate": self.model.file.config.rate,
            "version": self.nets.version, "index": len(self.nets.index) if self.nets.index and settings.index_rate
            else 0, "sung_s": round(sum(span.frames for span in sounding) / 100, 2), "peak": round(peak, 4),
            "not_honoured": [],
        }  # fmt: skip

    def _track(
        self, song: Song, sounding: list[Span], settings: NeuralConversion, reporter: Reporter
    ) -> Array | None:  # fmt: skip
        """The pitch of the song as it is (with parity: of the padded one), f0 [frames] in Hz; None for a voice that
        follows no pitch."""
        if not self.model.file.f0:
            return None
        if not sounding:
            return np.zeros(song.frames, np.float32)
        reporter.progress(0.02, "finding the melody")
        tracker = self._tracker(settings)
        found = tracker(parity.padded(song.samples) if settings.parity else song.samples)
        reporter.progress(0.15, "found the melody")
        if settings.parity:
            return found
        found = np.pad(found[: song.frames], (0, max(0, song.frames - len(found))))
        return tuning.median(found, settings.filter_radius)

    def _tracker(self, settings: NeuralConversion) -> Tracker:
        """The pitch tracker that is asked for; the last one is kept for the next song."""
        wanted: dict[str, Any] = {
            "method": settings.method, "crepe_hop_length": settings.crepe_hop_length, "parity": settings.parity,
            "median": settings.filter_radius if settings.parity else 0,
        }  # fmt: skip
        if self._kept is None or self._kept[0] != wanted:
            self._kept = wanted, Tracker(**wanted, weights=self.weights, device=self.nets.device)
        return self._kept[1]

    def _melody(
        self, heard: Array, semitones: float, settings: NeuralConversion
    ) -> tuple[Melody, tuple[int, str] | None]:
        moved = (heard * 2 ** (semitones / 12)).astype(np.float32)
        key = tuning.key_of(moved) if settings.autotune_to == "key" and settings.autotune else None
        moved = tuning.autotuned(moved, settings.autotune, key)
        if settings.unvoiced == "interpolate":
            moved = tuning.interpolated(moved)
        return Melody(moved, heard > 0), key

    def _spans(self, performance: Performance, sounding: list[Span], power: Array, block: int) -> Iterator[Array]:
        """The whole song at the voice's rate, silence between the spans, two seconds at a time."""
        hop, done = self.model.file.config.hop, 0
        for span in sounding:
            for start in range(done, span.start, BLOCK):
                yield np.zeros(min(BLOCK, span.start - start) * hop, np.float32)
            yield from performance.sing(span, power, block)
            done = span.stop
        for start in range(done, performance.last, BLOCK):
            yield np.zeros(min(BLOCK, performance.last - start) * hop, np.float32)

    def _write(
        self, reader: PcmReader, out: Path, audio: Iterator[Array], song: Array, f0: Array | None,
        settings: NeuralConversion, frames: int, reporter: Reporter,
    ) -> float:  # fmt: skip
        """Writes what is sung at the song's rate, in its exact length and channels. Returns the peak."""
        rate, total = self.model.file.config.rate, frames * self.model.file.config.hop
        # with parity the loudness is already the song's
        level = loudness.Leveller(song, rate, 1.0 if settings.parity else settings.rms_mix_rate)
        shift = formant.FormantShift(rate, settings.formant, f0)
        resampler = soxr.ResampleStream(rate, reader.rate, 1, dtype="float32", quality="VHQ")
        peak, done = 0.0, 0
        with aside(out) as part, PcmWriter(part, reader.rate, reader.channels) as writer:

            def write(samples: Array) -> None:
                nonlocal peak
                samples = samples[: reader.frames - writer.frames]
                peak = max(peak, float(np.abs(samples).max(initial=0.0)))
                writer.write(np.broadcast_to(samples, (reader.channels, len(samples))))

            for block in audio:
                done += len(block)
                write(resampler.resample_chunk(level.push(shift.push(block))))
                reporter.progress(0.15 + 0.84 * min(done / max(total, 1), 1.0), "singing")
            rest = level.push(shift.finish())
            write(resampler.resample_chunk(np.concatenate([rest, level.finish()])))
            write(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            write(np.zeros(reader.frames - writer.frames, np.float32))
        give_back()
        return peak


def formats(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """What the vocoder's heavy convolutions compute in; nothing else does.

    `auto` is bfloat16 where the hardware has it, else float32. The error, with sums in float32 (see `decoder.py`), is
    0.7 % of the signal or 0.1 dB of its log-mel spectrum: far below what another seed of the noise changes (2.7 dB).
    ContentVec stays float32: its errors would pass through the whole network, for a twentieth of the time.
    """
    if wanted == "auto" and device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return pick_dtype(device, wanted)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); elsewhere it would be slower."""
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in asks if ask is not None)
