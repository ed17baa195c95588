"""The neural renderer: `portrait(still, vocals, out, sonic=…)`, and what stands behind the contract of `render.py`.

look (face, crop, mask, latents) → hear (tokens for each frame) → sample (windows, steps) → show (decode, interpolate)

Everything that grows with the song lies in files under `work`, named by what is made; a portrait that was killed or
canceled goes on from them, and its frames are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vividcover.errors import AudioError, ParameterError
from vividcover.files import canonical, sha256_file
from vividcover.patience import Patient
from vividcover.portrait.faces import FaceKit
from vividcover.portrait.framing import Framing, frame
from vividcover.portrait.opencv import cv2
from vividcover.portrait.pasting import Paste
from vividcover.portrait.render import OnPreview, Rendering, RenderSettings, Rgb, perform
from vividcover.portrait.sonic.activity import video_frames
from vividcover.portrait.sonic.config import FPS, SHORTEST, VIDEO_FPS, WINDOW, SonicOptions
from vividcover.portrait.stills import read_still
from vividcover.progress import Part
from vividcover.song.pcm import PcmReader
from vividcover.weights import licence_of_portrait
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    from torch import Tensor

    from vividcover.portrait.sonic.opening import Sonic
    from vividcover.portrait.sonic.store import Store

COST = {"window": 31.8, "decode": 3.04, "between": 0.067}  # TFLOP at 512 x 512 px: a branch of 25 frames; a frame
DECODING = 24_000  # bytes for each pixel that decoding eight frames likes to have free on a GPU: 6 GB at 512 x 512 px
LISTENING = 0.01  # of what comes before the frames


def portrait(
    still: Path, vocals: Path, out: Path, *, sonic: Sonic, kit: FaceKit, work: Path,
    options: SonicOptions | None = None, min_resolution: int = 512, keep_resolution: bool = False,
    paste_back: bool = False, threads: int = 0,
    reporter: Reporter | None = None, on_preview: OnPreview | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Makes the person on `still` sing `vocals` (a working file): a silent mp4 of round(25 * seconds) frames.

    `work` is a folder of the caller's own, which may be removed when this returns. Returns the report.
    Raises `ImageError` (no usable face), `AudioError`, `ParameterError`, `WeightsError`, `StorageError`, `Canceled`.
    """
    from vividcover import tensors

    options = options or SonicOptions()
    if threads:
        tensors.use_threads(threads)
    settings = RenderSettings(
        VIDEO_FPS, min_resolution, keep_resolution, options.dynamic_scale, options.seed, paste_back
    )
    renderer = SonicRenderer(sonic, kit, options, work)
    return perform(renderer, read_still(still), vocals, out, settings, reporter=reporter, on_preview=on_preview)


class SonicRenderer:
    """Sonic behind the contract of `portrait/render.py`. Opening `sonic` is the caller's; its nets load when used."""

    def __init__(self, sonic: Sonic, kit: FaceKit, options: SonicOptions, work: Path) -> None:
        self.sonic, self.kit, self.options, self.work = sonic, kit, options, work

    def render(
        self, still: Rgb, vocals: Path, settings: RenderSettings, *, beat: Path | None = None,
        reporter: Reporter | None = None,
    ) -> Rendering:  # fmt: skip
        """Finds the face and measures the sound; the rest is done in `prepare` and `frames`. `beat` is not heard."""
        reporter = reporter or Silent()
        if settings.fps != VIDEO_FPS:
            raise ParameterError(f"fps is {settings.fps}.", f"Sonic draws {VIDEO_FPS} frames a second.")
        options = replace(self.options, dynamic_scale=settings.dynamic_scale, seed=settings.seed)
        seconds = _seconds(vocals)
        reporter.progress(0.0, "looking for the face")
        framing = frame(still, self.kit, min_resolution=settings.min_resolution)
        show = _Show(still, framing, settings)
        for note in (*framing.notes, *show.notes):
            reporter.note(note)
        act = _Act(self, framing, show, vocals, seconds, options, reporter)
        width, height = show.size
        return Rendering(width, height, act.count, act.frames(), act.report, act.prepare, act.ahead)


class _Show:
    """Frames of the network's size → those of the video: as they are, as large as the crop was, or put back."""

    def __init__(self, still: Rgb, framing: Framing, settings: RenderSettings) -> None:
        self._paste = Paste(still, framing) if settings.paste_back else None
        self.size = framing.own_size if settings.keep_resolution else framing.size
        self.notes: tuple[str, ...] = ()
        if self._paste is not None:
            self.size, self.notes = self._paste.size, self._paste.notes

    def __call__(self, rgb: Rgb) -> Rgb:
        if self._paste is not None:
            return self._paste.put(rgb)
        if (rgb.shape[1], rgb.shape[0]) == self.size:
            return rgb
        how = cv2.INTER_AREA if rgb.shape[1] > self.size[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(rgb, self.size, interpolation=how), np.uint8)


class _Act:
    """One performance: what is done ahead of its frames, and the frames."""

    def __init__(
        self, renderer: SonicRenderer, framing: Framing, show: _Show, vocals: Path, seconds: float,
        options: SonicOptions, reporter: Reporter,
    ) -> None:  # fmt: skip
        self.sonic, self.framing, self.show, self.vocals = renderer.sonic, framing, show, vocals
        self.options, self.reporter = options, reporter
        self.count = video_frames(seconds)
        self.work = renderer.work
        self.ahead = _ahead(options, max(1, int(seconds * FPS)))
        self.latents: Store | None = None
        self.seconds: dict[str, float] = {}  # what each part took in this run
        width, height = show.size
        face = framing.face
        self.report: dict[str, Any] = {
            "renderer": "sonic", "width": width, "height": height, "fps": VIDEO_FPS, "frames": self.count,
            "sound_seconds": round(seconds, 3), "seed": options.seed, "steps": options.step_count,
            "drawn": list(framing.size), "crop": list(framing.box),
            "face": {"height": round(face.h), "yaw": round(face.yaw), "pitch": round(face.pitch)},
            "options": {k: v for k, v in asdict(options).items() if k != "seed"},
            "device": str(renderer.sonic.device), "dtype": str(renderer.sonic.dtype).removeprefix("torch."),
            "licence": _licence(), "seconds": self.seconds, "notes": [*framing.notes, *show.notes],
        }  # fmt: skip

    def prepare(self, reporter: Reporter, on_preview: OnPreview | None) -> None:
        """Listens and samples; what an earlier run has done of it is taken over."""
        import torch

        from vividcover.portrait.sonic.decode import Estimate, decoded, latents_of
        from vividcover.portrait.sonic.features import listen
        from vividcover.portrait.sonic.sampler import Look
        from vividcover.portrait.sonic.speed import sampled

        sonic, rgb = self.sonic, self.framing.rgb
        reporter.progress(0.0, "looking at the still")
        with self._timed("looking"), Patient(reporter) as patient:
            clip = patient.call(sonic.clip, rgb)
            sonic.release("clip")
            still = patient.call(lambda: latents_of(rgb, sonic.vae, reporter))
            folder = self.work / patient.call(_key, self.framing, self.vocals, self.options, sonic)
        with self._timed("listening"):
            hearing = Part(reporter, 0.0, LISTENING)
            heard = listen(self.vocals, sonic, folder, clip=clip, options=self.options, reporter=hearing)
        if sonic.device.type != "cpu":
            sonic.release("whisper", "tokens", "buckets")  # what was heard lies in files

        early = Estimate.of(rgb, still.scaled) if sonic.device.type == "cpu" else partial(decoded, vae=sonic.vae)

        def show(fraction: float, latent: Tensor) -> None:
            if on_preview is not None:
                on_preview(fraction, early(latent))

        with self._timed("sampling"):
            self.latents = sampled(
                sonic, Look(still.mode[0], clip, torch.from_numpy(self.framing.mask)), heard, self.options, folder,
                Part(reporter, LISTENING, 1.0), on_preview=show if on_preview and self.options.preview_every else None,
            )  # fmt: skip
        self.report |= {"network_frames": heard.frames, "windows": -(-heard.frames // WINDOW)}
        while sonic.notes:  # of what loading did: the next portrait finds the nets loaded
            self._note(sonic.notes.pop(0))

    def frames(self) -> Iterator[Rgb]:
        """The video's pictures. One that was left half-way begins with the first again, and they are the same."""
        from vividcover.portrait.sonic import tail

        if self.latents is None:
            self.prepare(self.reporter, None)
        assert self.latents is not None
        _make_room(self.sonic, self.framing)
        with self.latents, self._timed("showing"):
            with Patient(self.reporter) as patient:
                vae, rife = patient.call(lambda: (self.sonic.vae, self.sonic.rife))
            options = self.options
            pictures = tail.frames(
                self.latents, vae, rife, self.count, smooth=options.smooth_decoding, compile=options.compile,
                reporter=Checked(self.reporter),
            )  # fmt: skip
            with contextlib.closing(pictures):  # its thread lets go of the latents before they are closed
                for rgb in pictures:
                    yield self.show(rgb)
        self.report["memory"] = _memory(self.sonic)

    def _note(self, note: str) -> None:
        self.reporter.note(note)
        self.report["notes"].append(note)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = round(time.monotonic() - began, 2)


class Checked:
    """A `Reporter` for a part whose progress somebody else tells: it can be canceled, and its notes are heard."""

    def __init__(self, outer: Reporter) -> None:
        self._outer = outer

    def progress(self, fraction: float, text: str = "") -> None:
        self._outer.check()

    def check(self) -> None:
        self._outer.check()

    def note(self, message: str) -> None:
        self._outer.note(message)


def _seconds(vocals: Path) -> float:
    """Raises `AudioError` for what is no working file, or too short for one frame of the network."""
    with PcmReader(vocals) as reader:
        seconds = reader.seconds
    if seconds < SHORTEST:
        raise AudioError(f"The vocals are only {seconds:.2f} s long.", f"Sonic needs {SHORTEST:.2f} s at least.")
    return seconds


def _key(framing: Framing, vocals: Path, options: SonicOptions, sonic: Sonic) -> str:
    """Names what is sampled; how large the video becomes, who looks and how many share the work does not change it."""
    digest = hashlib.sha256(framing.rgb.tobytes() + framing.mask.tobytes())
    same = ("preview_every", "processes", "smooth_decoding")
    said = {k: v for k, v in asdict(options).items() if k not in same}
    digest.update(canonical([said, sha256_file(vocals), sonic.key, sonic.device.type, str(sonic.dtype)]).encode())
    return digest.hexdigest()[:16]


def _ahead(options: SonicOptions, frames: int) -> float:
    """The part of the time that is over before the first frame, from what the networks compute."""
    from vividcover.portrait.sonic.speed import cost_of, plan_of

    sampling = COST["window"] * cost_of(plan_of(options), frames, straight=options.straight)
    return sampling / (sampling + (COST["decode"] + COST["between"]) * frames)


def _make_room(sonic: Sonic, framing: Framing) -> None:
    """Lets go of the UNet where a GPU has not the memory to decode beside it."""
    from vividcover.image.flux.opening import room_on

    if sonic.device.type == "cuda" and (room_on(sonic.device) or 0) < DECODING * framing.mask.size:
        sonic.release("unet")


def _licence() -> dict[str, Any]:
    licence = licence_of_portrait()
    return {"name": licence.name, "text": licence.text, "commercial": licence.commercial}


def _memory(sonic: Sonic) -> dict[str, int]:
    """The most that this process has held so far, and the GPU for it, in bytes."""
    import torch

    held = {}
    if sys.platform != "win32":
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held["process"] = most if sys.platform == "darwin" else most * 1024
    if sonic.device.type == "cuda":
        held["device"] = torch.cuda.max_memory_allocated(sonic.device)
    return held
