"""Sings a song's vocals with a trained voice: the melody, timing and breath of the song, the vocal tract of the voice.

    report = convert(vocals, Path("vivi.zip"), out, Conversion(pitch_change="auto"), reporter=stage)

    1  pitch      candidates of every frame in blocks, then one path over the whole song; the octave
    2  the singer envelopes of up to LISTEN seconds of singing: moments and vocal-tract length
                  and, after trials on some of it, what the voice's mean and spread still lack
    3  the sound  block by block: pitch moved by overlap-add, filtered by the difference of the envelopes

Blocks are cut where nobody sings, if there is such a place, and go through child processes; only the pitch track
(a few numbers per frame) is kept for the whole song.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d

from vividcover.errors import AudioError, ParameterError
from vividcover.processes import Children
from vividcover.song.pcm import PcmReader, PcmWriter
from vividcover.voice.classic import f0, sound
from vividcover.voice.classic.features import FRAME, HOP, RATE, Array, envelope, frame_count
from vividcover.voice.classic.mapping import SINGING_RISE, cepstra
from vividcover.voice.classic.model import Voice, load
from vividcover.voice.classic.singer import Heard, Singer, audible, corrected, difference, held_below_pitch, study
from vividcover.workspace import Reporter, Silent

PitchChange = Literal["auto", "no-change", "male-to-female", "female-to-male"] | float
OCTAVES = {"no-change": 0.0, "male-to-female": 12.0, "female-to-male": -12.0}  # semitones
HERE = "vividcover.voice.classic.convert"
CHILDREN = 4  # at work at once, 130 MB each
BLOCK = 1000  # frames (10 s) between two cuts, about;
SEARCH = 300  # frames around, in which the best place for the cut is looked for
MARGIN = 60  # frames before and after a block that are computed and thrown away
BLEND = HOP  # samples, 10 ms, over which neighbouring blocks are faded into each other
LISTEN = 90.0  # s of singing from which the singer is learnt
SINGING = 35  # frames around voiced ones that belong to a phrase: consonants, breath
PIECE = 300  # frames listened to at a time
QUIET = 45.0  # dB below the loud singing: silence, of which nothing is learnt
BLEED = 25.0  # dB below the loud singing: what is softer, outside phrases, is bleed of the band
BLEED_CUT = 18.0  # dB taken from it
LEVEL_REACH = 15.0  # dB by which the loudness may be corrected towards the song's
LEVEL_WINDOW = 21  # frames over which loudness is compared: within words the voice's own balance of sounds stays
TRIAL, TRIALS = 20.0, 3  # s of singing that are sung for trial, and how often
SIDE = 0.003  # share of side power in the mid's above which stereo width is kept


@dataclass(frozen=True)
class Conversion:
    """How to sing. The names are those of the song cover model; its defaults too.

    pitch_change   "auto" chooses the octave from both ranges; a name; or semitones (-24 … 24)
    index_rate     0..1: how much of what was learnt beyond mean and spread is used: likeness against clarity
    filter_radius  0..7: median filter of the pitch, frames; below 3 none
    rms_mix_rate   0..1: 0 = the song's loudness at every moment, 1 = what the converted voice gives
    protect        0..0.5: how much unvoiced sounds are converted; from 0.33 fully, 0 = consonants stay the song's
    The last two choose among trackers that the classic engine does not have.
    """

    pitch_change: PitchChange = "auto"
    index_rate: float = 0.5
    filter_radius: int = 3
    rms_mix_rate: float = 0.25
    protect: float = 0.33
    pitch_detection_algorithm: str = "rmvpe"
    crepe_hop_length: int = 128

    def check(self) -> None:
        for key, low, high in (
            ("index_rate", 0, 1), ("filter_radius", 0, 7), ("rms_mix_rate", 0, 1), ("protect", 0, 0.5)
        ):  # fmt: skip
            if not low <= getattr(self, key) <= high:
                raise ParameterError(f"{key} is {getattr(self, key)}.", f"It must lie between {low} and {high}.")
        if isinstance(self.pitch_change, str):
            if self.pitch_change not in (*OCTAVES, "auto"):
                raise ParameterError(
                    f"pitch_change is {self.pitch_change!r}.", f"Use auto, {', '.join(OCTAVES)}, or semitones."
                )
        elif not -24 <= self.pitch_change <= 24:
            raise ParameterError(f"pitch_change is {self.pitch_change} semitones.", "It must lie between -24 and 24.")


@dataclass(frozen=True)
class Plan:
    """What every block needs to know: settings, the pitch ratio, the voice and its singer."""

    settings: Conversion
    ratio: float
    model: Path
    singer: Singer
    stereo: bool


@dataclass(frozen=True)
class Block:
    """Frames begin … end of the song with a margin before: `samples` [C, N], `pitch` and `gate` per frame."""

    plan: Plan
    samples: Array
    pitch: Array  # Hz, 0 = unvoiced
    gate: Array  # dB
    lead: int  # samples before the block's own first one
    count: int  # samples of the block with its blend


def convert(
    vocals: Path, model: Path, out: Path, settings: Conversion, *, threads: int = 2, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Writes `out`: PCM of the length, rate and channels of `vocals`. Returns what was chosen and measured."""
    reporter = reporter or Silent()
    settings.check()
    voice = load(model)
    with PcmReader(vocals) as reader, Children(min(threads, CHILDREN), reporter) as children:
        if reader.rate != RATE:
            raise AudioError(f"The vocals are at {reader.rate} Hz.", f"Decode them to {RATE} Hz first.")
        pitch, level = _pitch(reader, settings, children, reporter)
        semitones, why = choose_pitch(settings.pitch_change, pitch, voice)
        plan = _plan(reader, Path(model), settings, semitones, pitch, level, children, reporter)
        _write(reader, out, plan, pitch, _gate(pitch, level), children, reporter)
    voiced = pitch[pitch > 0]
    if not len(voiced):
        reporter.note("No singing was found in the vocals.")
    return {
        "engine": "classic", "voice": voice.card.get("name"), "semitones": semitones, "octave": semitones / 12,
        "octave_why": why, "vocal_tract_warp": round(plan.singer.alpha, 4),
        "song_f0_hz": _range(voiced), "sung_f0_hz": _range(voiced * plan.ratio), "voice_f0_hz": voice.card.get("f0_hz"),
        "not_honoured": _not_honoured(settings),
    }  # fmt: skip


def choose_pitch(wanted: PitchChange, pitch: Array, voice: Voice) -> tuple[float, str]:
    """Semitones to move the song by, and why. Octaves only in `auto`: the melody must fit the band."""
    if not isinstance(wanted, str):
        return float(wanted), "asked for"
    if wanted != "auto":
        return OCTAVES[wanted], "asked for"
    voiced = pitch[pitch > 0]
    if not len(voiced):
        return 0.0, "no singing found"
    song, own = float(np.median(voiced)), float(voice.card["f0_hz"]["median"])
    rise = SINGING_RISE * (f0.sung_share(pitch) - float(voice.card.get("sung", 0.0)))
    octaves = int(np.clip(np.round(np.log2(own / song) + rise), -2, 2))
    return 12.0 * octaves, f"the song's middle is {song:.0f} Hz, the voice's {own:.0f} Hz"


def _range(voiced: Array) -> dict[str, float] | None:
    if not len(voiced):
        return None
    return dict(zip(("low", "median", "high"), (round(float(v), 2) for v in np.percentile(voiced, [5, 50, 95]))))


def _not_honoured(settings: Conversion) -> list[str]:
    plain = Conversion()
    return [
        f"{key}={getattr(settings, key)}: the classic engine has one pitch tracker of its own"
        for key in ("pitch_detection_algorithm", "crepe_hop_length")
        if getattr(settings, key) != getattr(plain, key)
    ]


# --- 1 pitch -------------------------------------------------------------------------------------------------------


def _pitch(reader: PcmReader, settings: Conversion, children: Children, reporter: Reporter) -> tuple[Array, Array]:
    """f0 in Hz and level in dB of the whole song, [T] each."""
    frames = frame_count(reader.frames)
    starts = range(0, frames, 2 * BLOCK)

    def items() -> Iterator[tuple[Array, int, int]]:
        for start in starts:
            count = min(2 * BLOCK, frames - start)
            samples = reader.read((start - MARGIN) * HOP, (count + 2 * MARGIN) * HOP).mean(0)
            yield samples, MARGIN, count

    parts: tuple[list[Array], list[Array], list[Array]] = ([], [], [])
    for number, found in enumerate(children.map(f"{HERE}:listen", items())):
        for kept, new in zip(parts, found):
            kept.append(new)
        reporter.progress(0.15 * (number + 1) / len(starts), "finding the melody")
    octaves, strengths, level = (np.concatenate(part) for part in parts)
    pitch = f0.track(octaves, strengths, level)
    if settings.filter_radius >= 3:
        pitch = _median(pitch, settings.filter_radius)
    return pitch, level


def listen(item: tuple[Array, int, int]) -> tuple[Array, Array, Array]:
    """In a child: pitch candidates and level of `count` frames of mono samples that begin `lead` frames earlier."""
    samples, lead, count = item
    strength, level = f0.strengths(samples, RATE, lead + count, FRAME)
    return *f0.candidates(strength[lead:]), level[lead:]


def _median(pitch: Array, radius: int) -> Array:
    """Median filter over `radius` frames that leaves voicing as it is."""
    voiced = pitch > 0
    if not voiced.any():
        return pitch
    places = np.arange(len(pitch))
    filled = np.interp(places, places[voiced], pitch[voiced])
    return np.asarray(np.where(voiced, median_filter(filled, radius | 1, mode="nearest"), 0), dtype=np.float32)


def _gate(pitch: Array, level: Array) -> Array:
    """Gain in dB [T] that turns the band's bleed down where nobody sings; 0 everywhere else."""
    if not (pitch > 0).any():
        return np.zeros(len(pitch), np.float32)
    loud = float(np.percentile(level[pitch > 0], 75))
    phrase = maximum_filter1d((pitch > 0).astype(np.int8), 2 * SINGING + 1) > 0
    cut = np.where(~phrase & (level < loud - BLEED), np.float32(-BLEED_CUT), np.float32(0))
    return np.asarray(uniform_filter1d(cut, 9), dtype=np.float32)


# --- 2 the singer --------------------------------------------------------------------------------------------------


def _plan(
    reader: PcmReader, model: Path, settings: Conversion, semitones: float, pitch: Array, level: Array,
    children: Children, reporter: Reporter,
) -> Plan:  # fmt: skip
    singing, starts = _phrases(pitch, level)
    heard = _singer(reader, pitch, singing, starts, children, reporter)
    (singer,) = children.map(f"{HERE}:compare", [(heard, model)])
    stereo = reader.channels == 2 and semitones == 0 and _is_wide(reader)
    plan = Plan(settings, 2 ** (semitones / 12), model, singer, stereo)
    if not singer.known:
        return plan
    some = _spread(starts, int(TRIAL / (PIECE * FRAME)))
    for number in range(TRIALS):
        reporter.progress(0.25 + 0.02 * number, "trying it out")
        items = (
            (Block(plan, samples, part, np.zeros(len(part), np.float32), 0, samples.shape[1]), singing[s : s + PIECE])
            for s, (samples, part) in zip(some, _pieces(reader, pitch, some))
        )
        found = list(children.map(f"{HERE}:rehearse", items))
        values, voiced = (np.concatenate(part) for part in zip(*found))
        plan = replace(plan, singer=corrected(plan.singer, values, voiced, load(model)))
    return plan


def compare(item: tuple[Heard, Path]) -> Singer:
    """In a child: everything about the singer, against the voice."""
    return study(item[0], load(item[1]))


def rehearse(item: tuple[Block, NDArray[np.bool_]]) -> tuple[Array, NDArray[np.bool_]]:
    """In a child: cepstra [n, ORDER] of the chosen frames of a block as it is sung, and which are voiced."""
    block, chosen = item
    sung = sing(block).mean(0)
    pitch = block.pitch * np.float32(block.plan.ratio)
    values = cepstra(audible(envelope(sung, pitch), pitch, load(block.plan.model)))
    return values[chosen], pitch[chosen] > 0


def _phrases(pitch: Array, level: Array) -> tuple[NDArray[np.bool_], list[int]]:
    """Which frames [T] belong to singing, and where pieces begin, up to LISTEN seconds, spread over the song."""
    singing = maximum_filter1d((pitch > 0).astype(np.int8), 2 * SINGING + 1) > 0
    singing &= level > (np.percentile(level[pitch > 0], 75) if (pitch > 0).any() else 0) - QUIET
    starts = [s for s in range(0, len(pitch), PIECE) if singing[s : s + PIECE].mean() > 0.3]
    return singing, _spread(starts, int(LISTEN / (PIECE * FRAME)))


def _spread(starts: list[int], most: int) -> list[int]:
    if len(starts) <= most:
        return starts
    return [starts[i] for i in np.linspace(0, len(starts) - 1, most).astype(int)]


def _pieces(reader: PcmReader, pitch: Array, starts: list[int]) -> Iterator[tuple[Array, Array]]:
    """Mono samples [1, N] and pitch of PIECE frames from each start."""
    for s in starts:
        samples = reader.read(s * HOP, (min(PIECE, len(pitch) - s) - 1) * HOP + 1)
        yield samples.mean(0, keepdims=True), pitch[s : s + PIECE]


def _singer(
    reader: PcmReader, pitch: Array, singing: NDArray[np.bool_], starts: list[int],
    children: Children, reporter: Reporter,
) -> Heard:  # fmt: skip
    bands: list[Array] = []
    items = _pieces(reader, pitch, starts)
    for number, found in enumerate(children.map(f"{HERE}:look", items)):
        bands.append(found)
        reporter.progress(0.15 + 0.1 * (number + 1) / len(starts), "studying the singer")
    if not bands:
        return Heard(np.zeros((0, 0), np.float32), np.zeros(0, bool), 0.0)
    chosen = np.concatenate([singing[s : s + PIECE] for s in starts])
    heard = np.concatenate([pitch[s : s + PIECE] > 0 for s in starts])
    middle = float(np.log2(np.median(pitch[pitch > 0])))
    return Heard(np.concatenate(bands)[chosen], heard[chosen], middle)


def look(item: tuple[Array, Array]) -> Array:
    """In a child: log bands of mono samples [1, N] with their pitch."""
    return envelope(item[0][0], item[1])


def _is_wide(reader: PcmReader) -> bool:
    mid = side = 0.0
    for block in reader.blocks(RATE * 10):
        mid += float(np.sum(block.mean(0) ** 2))
        side += float(np.sum((block[0] - block[1]) ** 2)) / 4
    return side > SIDE * mid


# --- 3 the sound ---------------------------------------------------------------------------------------------------


def _write(
    reader: PcmReader, out: Path, plan: Plan, pitch: Array, gate: Array, children: Children, reporter: Reporter
) -> None:
    cuts = cut_frames(pitch, gate)

    def items() -> Iterator[Block]:
        for begin, end in pairwise(cuts):
            low, high = begin - MARGIN, min(end + MARGIN, len(pitch) + MARGIN)
            own = slice(max(low, 0), min(high, len(pitch)))
            pad = (own.start - low, high - own.stop)
            samples = reader.read(low * HOP, (high - low - 1) * HOP + 1)
            if not plan.stereo:
                samples = samples.mean(0, keepdims=True)
            last = min(end * HOP, reader.frames) if end < len(pitch) else reader.frames
            count = last - begin * HOP + (BLEND if end < len(pitch) else 0)
            yield Block(plan, samples, np.pad(pitch[own], pad), np.pad(gate[own], pad), MARGIN * HOP, count)

    rise = (np.arange(BLEND, dtype=np.float32) + 0.5) / BLEND
    tail: Array | None = None
    with PcmWriter(out, reader.rate, reader.channels) as writer:
        blocks = children.map(f"{HERE}:sing", items())
        for number, (block, end) in enumerate(zip(blocks, cuts[1:])):
            if tail is not None:
                blend = min(BLEND, block.shape[1])
                block[:, :blend] = block[:, :blend] * rise[:blend] + tail[:, :blend] * (1 - rise[:blend])
            if end < len(pitch):
                block, tail = block[:, :-BLEND], block[:, -BLEND:]
            writer.write(np.broadcast_to(block, (reader.channels, block.shape[1])))
            reporter.progress(0.3 + 0.7 * (number + 1) / (len(cuts) - 1), "singing")


def cut_frames(pitch: Array, gate: Array) -> list[int]:
    """Frames where blocks begin, and the last frame: in pauses if possible, else between words, else anywhere."""
    voiced = uniform_filter1d((pitch > 0).astype(np.float32), 15)
    cost = voiced + 0.01 * gate / BLEED_CUT
    cuts = [0]
    while len(pitch) - cuts[-1] > BLOCK + 2 * SEARCH:
        low = cuts[-1] + BLOCK - SEARCH
        cuts.append(low + int(np.argmin(cost[low : low + 2 * SEARCH])))
    return [*cuts, len(pitch)]


def sing(block: Block) -> Array:
    """In a child: the converted samples [C, count] of a block."""
    plan, settings = block.plan, block.plan.settings
    mono = block.samples.mean(0)
    if not mono.any():
        return np.zeros((len(block.samples), block.count), np.float32)
    bands = envelope(mono, block.pitch)
    voiced = block.pitch > 0
    amount = np.where(voiced, 1.0, min(1.0, 3.03 * settings.protect)).astype(np.float32)
    change = difference(bands, voiced, plan.singer, load(plan.model), settings.index_rate)
    change = held_below_pitch(change * uniform_filter1d(amount, 3)[:, None], block.pitch * np.float32(plan.ratio))
    moved = sound.shift_pitch(mono, block.pitch, plan.ratio)[None] if plan.ratio != 1 else block.samples
    sung = sound.apply_envelope(moved, change)
    frames = len(block.pitch)
    lost = sound.level_db(mono, frames, LEVEL_WINDOW) - sound.level_db(sung.mean(0), frames, LEVEL_WINDOW)
    kept = uniform_filter1d(np.clip(lost, -LEVEL_REACH, LEVEL_REACH), 5) * (1 - settings.rms_mix_rate)
    sung = sound.apply_gain(sung, kept + block.gate)
    padded = np.pad(sung, ((0, 0), (0, max(0, block.lead + block.count - sung.shape[1]))))
    return padded[:, block.lead : block.lead + block.count]
