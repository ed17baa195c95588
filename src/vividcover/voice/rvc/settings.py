"""How to sing: every option of a conversion, with the names, defaults and meanings of the song cover model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vividcover.errors import ParameterError

PitchChange = Literal["auto", "no-change", "male-to-female", "female-to-male"] | float
OCTAVES = {"no-change": 0.0, "male-to-female": 12.0, "female-to-male": -12.0}  # semitones
METHODS = (
    "rmvpe", "rmvpe_gpu", "fcpe", "crepe", "crepe-tiny", "mangio-crepe", "mangio-crepe-tiny", "pm", "dio", "harvest",
)  # fmt: skip
FARTHEST = 36.0  # semitones
RANGES: dict[str, tuple[float, float]] = {
    "semitones": (-FARTHEST, FARTHEST), "index_rate": (0, 1), "filter_radius": (0, 7), "rms_mix_rate": (0, 1),
    "protect": (0, 0.5), "crepe_hop_length": (1, 512), "formant": (-12, 12), "autotune": (0, 1),
    "silence_gate_db": (-200, 0), "speaker": (0, 99_999), "seed": (0, 2**63 - 1), "noise_scale": (0, 2),
}  # fmt: skip


@dataclass(frozen=True)
class NeuralConversion:
    """Names, defaults and ranges are those of zsxkib/realistic-voice-cloning where it has them.

    pitch_change      "auto" chooses the octave from both ranges; a name; or semitones
    semitones         by how much more the melody is moved, whatever pitch_change says: the song's key
    index_rate        0..1: how far the sounds are drawn towards those in the person's recordings; needs an index
    filter_radius     0..7: median filter of the pitch, frames; below 3 none
    rms_mix_rate      0..1: 0 = the song's loudness at every moment, 1 = what the converted voice gives
    protect           0..0.5: how much of the index consonants and breath get; 0.5 = as much as everything else
    method            the pitch tracker, see `pitch.METHODS`
    crepe_hop_length  1..512 samples at 16 kHz between two frames of mangio-crepe
    unvoiced          "zero": no pitch where none is heard, as published voices were trained;
                      "interpolate": a line between the notes, as RVC does since 2026
    formant           semitones by which the voice's resonances are moved: up = smaller, brighter; 0 = as learnt
    autotune          0..1: how far the pitch is drawn to the nearest note; 1 = exactly on it
    autotune_to       which notes there are: all twelve, or the seven of the key that the song is found to be in
    silence_gate_db   level below which nothing is sung and the output is silent (dB of full scale); -200 = never
    speaker           which one, of a voice with several
    seed              of the noise that singing contains; the same seed gives the same samples
    noise_scale       how much of it
    parity            the semantics of RVC (2023) in all things: its pieces, its noise source, no gate, 16 bits
    """

    pitch_change: PitchChange = "auto"
    semitones: float = 0.0
    index_rate: float = 0.5
    filter_radius: int = 3
    rms_mix_rate: float = 0.25
    protect: float = 0.33
    method: str = "rmvpe"
    crepe_hop_length: int = 128
    unvoiced: Literal["zero", "interpolate"] = "zero"
    formant: float = 0.0
    autotune: float = 0.0
    autotune_to: Literal["semitone", "key"] = "semitone"
    silence_gate_db: float = -60.0
    speaker: int = 0
    seed: int = 0
    noise_scale: float = 0.66666
    parity: bool = False

    def check(self) -> None:
        """Raises `ParameterError` for a value out of range or a name that does not exist."""
        for key, (low, high) in RANGES.items():
            if not low <= getattr(self, key) <= high:
                raise ParameterError(f"{key} is {getattr(self, key)}.", f"It must lie between {low:g} and {high:g}.")
        if isinstance(self.pitch_change, str):
            _one_of("pitch_change", self.pitch_change, ("auto", *OCTAVES), ", or semitones")
        elif not -FARTHEST <= self.pitch_change <= FARTHEST:
            raise ParameterError(
                f"pitch_change is {self.pitch_change} semitones.",
                f"It must lie between {-FARTHEST:g} and {FARTHEST:g}.",
            )
        _one_of("method", self.method, METHODS)
        _one_of("unvoiced", self.unvoiced, ("zero", "interpolate"))
        _one_of("autotune_to", self.autotune_to, ("semitone", "key"))


def _one_of(name: str, value: str, known: tuple[str, ...], more: str = "") -> None:
    if value not in known:
        raise ParameterError(f"{name} is {value!r}.", f"Use {', '.join(known)}{more}.")
