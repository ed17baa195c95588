"""`zsxkib/realistic-voice-cloning`: a song and a voice in, the song in that voice out.

Asked twice with other mix settings (full mix; vocals alone), it separates once and converts once: the stages before
the mix do not depend on the mix's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from vividcover import provenance
from vividcover.catalog import shelf, singing, steps
from vividcover.catalog.contract import Context, Inputs, Made, Model, uri
from vividcover.errors import ParameterError
from vividcover.settings import Settings

LEFT_OUT = -60.0  # dB: a part turned down this far is not mixed in at all

CLASSIC_IGNORES = {
    "pitch_detection_algorithm": "the classic engine has one pitch tracker of its own",
    "crepe_hop_length": "it belongs to mangio-crepe, which the classic engine does not have",
    "unvoiced": "it belongs to the neural engine's pitch trackers",
    "formant_shift": "the classic engine takes the vocal tract from the voice's own recordings",
    "autotune": "the classic engine keeps the melody as it was sung",
    "blend_voice": "the classic engine's voices have no weights to mix",
    "blend": "the classic engine's voices have no weights to mix",
}
OURS = (
    "separator", "vocals_stem", "instrumental_stem", "backup_vocals_stem", "convert_backup_vocals", "formant_shift",
    "autotune", "unvoiced", "blend_voice", "blend",
)  # fmt: skip
HOSTED_IGNORES = dict.fromkeys(OURS, "it is not one of the published model's inputs")
# those that concern the voice, with or without a band around it
VOICE_OPTIONS = (
    "pitch_change", "index_rate", "filter_radius", "rms_mix_rate", "protect", "pitch_detection_algorithm",
    "crepe_hop_length", "unvoiced", "formant_shift", "autotune", "blend_voice", "blend",
)  # fmt: skip
PUBLISHED_TRACKERS = ("rmvpe", "mangio-crepe")
Tracker = Literal[
    "rmvpe", "mangio-crepe", "fcpe", "crepe", "crepe-tiny", "mangio-crepe-tiny", "harvest", "dio", "pm"
]  # fmt: skip


class RealisticVoiceCloningInput(Inputs):
    song_input: str = uri("The song: a file, a link to audio, or any page yt-dlp understands.")
    rvc_model: str = Field(
        default="Squidward", description="Name of a trained voice; CUSTOM when custom_rvc_model_download_url is given."
    )
    custom_rvc_model_download_url: str | None = uri(
        "A trained voice as a link or a path. Used regardless of rvc_model.", required=False
    )
    pitch_change: Literal["no-change", "male-to-female", "female-to-male", "auto"] = Field(
        default="no-change",
        description="Octave of the AI vocals: as sung, one up, one down; auto: chosen from the ranges.",
    )
    index_rate: float = Field(
        default=0.5, ge=0, le=1, description="How much of the voice's own accent and timbre is used."
    )
    filter_radius: int = Field(default=3, ge=0, le=7, description="From 3 on: median filter over the pitch track.")
    rms_mix_rate: float = Field(
        default=0.25, ge=0, le=1, description="Loudness of the original vocals (0) or a fixed loudness (1)."
    )
    pitch_detection_algorithm: Tracker = Field(
        default="rmvpe",
        description="rmvpe: clarity; mangio-crepe: smoother vocals; fcpe: fast; pm, harvest, dio: without weights.",
    )
    crepe_hop_length: int = Field(
        default=128, ge=1, le=4096, description="For mangio-crepe: how often it looks, in samples."
    )
    protect: float = Field(
        default=0.33,
        ge=0,
        le=0.5,
        description="How much breath and voiceless consonants of the original stay; 0.5 = off.",
    )
    main_vocals_volume_change: float = Field(default=0, ge=-100, le=24, description="dB, of the main AI vocals.")
    backup_vocals_volume_change: float = Field(default=0, ge=-100, le=24, description="dB, of the backing vocals.")
    instrumental_volume_change: float = Field(
        default=0, ge=-100, le=24, description="dB, of the instrumental; from -60 down it is left out."
    )
    pitch_change_all: float = Field(default=0, ge=-12, le=12, description="Semitones, of everything: the song's key.")
    reverb_size: float = Field(default=0.15, ge=0, le=1, description="The larger the room, the longer the reverb.")
    reverb_wetness: float = Field(default=0.2, ge=0, le=1, description="Level of AI vocals with reverb.")
    reverb_dryness: float = Field(default=0.8, ge=0, le=1, description="Level of AI vocals without reverb.")
    reverb_damping: float = Field(default=0.7, ge=0, le=1, description="Absorption of high frequencies in the reverb.")
    output_format: Literal["mp3", "wav", "flac"] = Field(
        default="mp3", description="wav and flac: best quality; mp3: small."
    )
    # what follows is not part of the published model
    separator: str = Field(
        default="auto", max_length=64,
        description="What takes the song apart: auto, classic, none (the song is vocals only), or the name of a net.",
    )  # fmt: skip
    vocals_stem: str | None = uri("The song's vocals, if you have them apart.", required=False)
    instrumental_stem: str | None = uri("The song without its vocals, if you have it.", required=False)
    backup_vocals_stem: str | None = uri("The song's backing vocals, if you have them apart.", required=False)
    convert_backup_vocals: bool = Field(default=False, description="Sing the backing vocals in the voice, too.")
    formant_shift: float = Field(
        default=0, ge=-12, le=12, description="Semitones by which the vocal tract sounds smaller (or larger, below 0)."
    )
    autotune: float = Field(default=0, ge=0, le=1, description="How far each note is drawn to its semitone.")
    unvoiced: Literal["zero", "interpolate"] = Field(
        default="zero", description="Pitch where there is none: zero as published, or led on from the notes around."
    )
    blend_voice: str | None = Field(
        default=None, description="A second trained voice to mix with: a name, path or link."
    )
    blend: float = Field(default=0.5, ge=0, le=1, description="How much of blend_voice.")


@dataclass(frozen=True)
class Stems:
    """The stages that both calls of a cover share."""

    title: str
    seconds: float
    vocals: Path  # converted
    original: Path  # as separated
    backing: Path | None
    instrumental: Path | None
    details: dict[str, Any]
    in_key: bool  # whether the conversion has moved the vocals by pitch_change_all


class RealisticVoiceCloning(Model):
    name: ClassVar[str] = "zsxkib/realistic-voice-cloning"
    description: ClassVar[str] = "Song covers with a trained voice."
    Input: ClassVar[type[Inputs]] = RealisticVoiceCloningInput
    output: ClassVar[Literal["file", "files", "text"]] = "file"
    ignores: ClassVar[Mapping[str, Mapping[str, str]]] = {"classic": CLASSIC_IGNORES, "hosted": HOSTED_IGNORES}
    wants_gpu: ClassVar[bool] = False  # a song takes minutes on a processor

    def reader(self, input: RealisticVoiceCloningInput, context: Context) -> tuple[str, str] | None:
        """The engine that can read the voice. RVC files are read by the neural and the hosted one."""
        wanted = input.custom_rvc_model_download_url or input.rvc_model
        found = shelf.engine_of("voice", wanted, context)
        if found is None or found[0] == "classic":
            return found
        engine, why = found
        there = self.hosted_at(context.settings)
        if engine == "hosted" and not there:
            return "neural", f"{why}, no token for it is set, and its file is an RVC model"
        if engine == "neural" and there and (lacks := self.neural_lacks(context.settings, input)):
            return "hosted", f"{why}; here {lacks}; a token for {there} is set"
        return engine, why

    def neural_lacks(self, settings: Settings, input: Any = None, training: bool = False) -> str:
        return singing.lacks(settings, input)

    def hosted(self, input: RealisticVoiceCloningInput, context: Context) -> Made:
        """There. A voice of our shelf is sent along; a name that we do not know is one of the other side's voices."""
        from vividcover.catalog import remote

        values = {k: v for k, v in remote.values_of(input).items() if k not in HOSTED_IGNORES}
        values |= {"song_input": context.file("song_input", input.song_input, media=True)}
        wanted = self._voice(input)
        if input.custom_rvc_model_download_url or shelf.engine_of("voice", wanted, context):
            trained = shelf.take("voice", wanted, context)
            neural = trained.card.get("engine") == "neural"  # an RVC zip, as the other side reads them
            file = trained.path if neural else remote.unwrapped(trained, context)
            values |= {"custom_rvc_model_download_url": file, "rvc_model": "CUSTOM"}
        if values.get("pitch_change") == "auto":
            context.cannot("pitch_change", "auto", "the hosted engine does not choose the octave; no-change was sent")
            values["pitch_change"] = "no-change"
        if (tracker := values.get("pitch_detection_algorithm", "rmvpe")) not in PUBLISHED_TRACKERS:
            context.cannot("pitch_detection_algorithm", tracker, "the published model does not have it; rmvpe was sent")
            values["pitch_detection_algorithm"] = "rmvpe"
        return remote.made(self, remote.marked(self, remote.run(self, values, context), context))

    def classic(self, input: RealisticVoiceCloningInput, context: Context) -> Made:
        return self._here(input, context, "classic")

    def neural(self, input: RealisticVoiceCloningInput, context: Context) -> Made:
        return self._here(input, context, "neural")

    def _here(self, input: RealisticVoiceCloningInput, context: Context, engine: singing.Local) -> Made:
        stems = self.stems(input, context, engine)
        mixed = self.mix(input, stems, context)
        file = f"{steps.file_name(stems.title, 'song')}.{input.output_format}"
        tags = provenance.tags(stems.title, self.name, engine)
        encoded = steps.encoded(context, "song/encode", mixed, input.output_format, file, tags)
        parts = {"pcm": mixed, "vocals": stems.vocals}
        if stems.instrumental:
            parts["instrumental"] = stems.instrumental
        return Made(encoded.path(file), details=stems.details, parts=parts)

    def stems(self, input: RealisticVoiceCloningInput, context: Context, engine: singing.Local = "classic") -> Stems:
        """Fetch, decode, separate, convert: everything that the mix's settings do not touch."""
        voice = shelf.take("voice", self._voice(input), context)
        song = steps.decoded(context, "song", input.song_input)
        parts = singing.parted(input, song, context, engine)
        if parts.backing is None and input.backup_vocals_volume_change:
            why = "no backing vocals could be told apart; if there are any, they stay with the vocals"
            context.cannot("backup_vocals_volume_change", input.backup_vocals_volume_change, why)
        in_key = engine == "neural"  # a network sings the melody in the new key; the mix moves what it did not
        key = input.pitch_change_all if in_key else 0.0
        sung = singing.sung_by(voice, parts.vocals, input, context, engine, key)
        backing = parts.backing
        if backing and input.convert_backup_vocals:
            backing = singing.sung_by(voice, backing, input, context, engine).path("vocals.wav")
        details = {
            "separation": parts.story,
            "conversion": dict(sung.meta),
            "song": {k: song.meta[k] for k in ("seconds", "rate", "channels", "codec", "container", "title")},
        }
        return Stems(
            song.meta["title"] or Path(input.song_input).stem, song.meta["seconds"], sung.path("vocals.wav"),
            parts.vocals, backing, parts.instrumental, details, in_key,
        )  # fmt: skip

    def mix(self, input: RealisticVoiceCloningInput, stems: Stems, context: Context) -> Path:
        """The mix as float32 WAV. Parts turned down to -60 dB or less are left out."""
        from vividcover.song.mix import MixSettings

        alone = input.instrumental_volume_change <= LEFT_OUT
        backing = stems.backing if input.backup_vocals_volume_change > LEFT_OUT else None
        settings = MixSettings(
            main_vocals_volume_change=input.main_vocals_volume_change,
            backup_vocals_volume_change=input.backup_vocals_volume_change,
            instrumental_volume_change=input.instrumental_volume_change, pitch_change_all=input.pitch_change_all,
            reverb_size=input.reverb_size, reverb_wetness=input.reverb_wetness, reverb_dryness=input.reverb_dryness,
            reverb_damping=input.reverb_damping, vocals_in_key=stems.in_key,
        )  # fmt: skip
        name = "song/vocals-alone" if alone else "song/mix"
        instrumental = None if alone else stems.instrumental
        return steps.mixed(context, name, stems.vocals, backing, instrumental, settings).path("mix.wav")

    def _voice(self, input: RealisticVoiceCloningInput) -> str:
        if input.custom_rvc_model_download_url:
            return input.custom_rvc_model_download_url
        if input.rvc_model == "CUSTOM":
            raise ParameterError(
                "rvc_model=CUSTOM needs custom_rvc_model_download_url.", "Give the path or link of a trained voice."
            )
        return input.rvc_model
