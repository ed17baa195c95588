"""MDX-Net (Kim et al., arXiv:2111.12203), as the published ONNX files hold it: a net that maps spectra to spectra.

    net = MdxNet(path, MODELS["uvr_mdx_voc_ft"])
    MdxSeparator("uvr_mdx_voc_ft", net, "vocals", "instrumental").separate(song, folder)

The net sees both channels' lowest bins as [B, 4, dim_f, dim_t] (left real, left imaginary, right real, right
imaginary) and answers one stem in the same form; the other stem is what is left of the song.

Two ways of going over a song. "overlap": chunks overlap and are cross-faded, and both stems sum to the song. "parity":
as AICoverGen does (its `mdx.py`, MIT): chunks side by side, in two halves with a second of margin, at the song's peak
set to 1. Its second stem is the *levelled* song minus the stem at its own level, so that the two do not sum to the song
unless its peak is 1. That is kept there: it is what the published program sounds like.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vividcover.errors import AudioError, EngineError, ModelFileError, ParameterError
from vividcover.song.pcm import PcmReader, PcmWriter
from vividcover.song.separators.contract import NetSeparator, fitted
from vividcover.song.separators.overlap import Batch, Chunks, Part, Scaled, Source, Stereo, levels, overlap_add
from vividcover.song.separators.stft import Stft
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    import onnxruntime

RATE = 44_100
HOP = 1024
MARGIN = RATE  # samples, 1 s: what AICoverGen's halves see of each other
INSTALL = "Install it with `pip install 'vividcover[neural]'`."
Mode = Literal["overlap", "parity"]


@dataclass(frozen=True)
class MdxConfig:
    """The numbers of one published model, from UVR's `model_data.json`."""

    n_fft: int
    dim_f: int  # bins that the net sees, of n_fft / 2 + 1
    dim_t: int  # frames
    compensate: float  # by which its stem is too quiet
    hop: int = HOP

    @property
    def chunk(self) -> int:
        return self.hop * (self.dim_t - 1)


MODELS = MappingProxyType(
    {
        "uvr_mdx_voc_ft": MdxConfig(7680, 3072, 256, 1.021),
        "uvr_mdx_kara_2": MdxConfig(5120, 2048, 256, 1.035),
        "uvr_mdx_reverb_hq": MdxConfig(6144, 3072, 512, 1.035),
    }
)


class MdxNet:
    """A `Net` of one stem, "stem". `denoise` asks twice, the second time upside down, and takes the mean: half the
    noise that the net adds of its own, at twice the cost."""

    stems: tuple[str, ...] = ("stem",)
    rate = RATE
    level = "none"
    mirror = 0

    def __init__(
        self, file: Path, config: MdxConfig, *, denoise: bool = False, overlap: float = 0.25, batch: int = 1,
        device: str = "auto", threads: int = 0,
    ) -> None:  # fmt: skip
        """Raises `EngineError` (no onnxruntime, or not for that device), `ModelFileError`, `ParameterError`."""
        if not 0 <= overlap <= 0.9:
            raise ParameterError(f"An overlap of {overlap} of a chunk.", "Choose 0 to 0.9; 0.25 is usual.")
        self.config, self.denoise = config, denoise
        self.stft = Stft(config.n_fft, config.hop)
        step = max(1, round(config.chunk * (1 - overlap)))
        window: Literal["hann", "flat"] = "hann" if overlap else "flat"
        self.chunks = Chunks(config.chunk, step, window, lead=config.n_fft // 2 if overlap else 0, batch=batch)
        self._session = _session(file, device, threads)
        self._input = _checked(self._session, config, file)
        self._run: Any = None

    def __call__(self, mixtures: Batch) -> Batch:
        """[B, 2, chunk] -> [B, 1, 2, chunk]"""
        spectra = self.stft.forward(mixtures, self.config.dim_f)  # [B, 2, dim_f, dim_t]
        channels = np.stack([spectra.real, spectra.imag], axis=2)  # [B, 2, re|im, dim_f, dim_t]
        seen = channels.reshape(len(mixtures), 4, self.config.dim_f, self.config.dim_t)
        answer = self._answer(seen)
        if self.denoise:
            answer = np.float32(0.5) * (answer - self._answer(-seen))
        parts = answer.reshape(channels.shape)
        found: Batch = self.stft.inverse(parts[:, :, 0] + np.complex64(1j) * parts[:, :, 1], self.config.chunk)
        return found[:, None]

    def _answer(self, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        import onnxruntime

        self._run = onnxruntime.RunOptions()
        answer: NDArray[np.float32] = self._session.run(None, {self._input: np.ascontiguousarray(seen)}, self._run)[0]
        return answer

    def stop(self) -> None:
        if self._run is not None:
            self._run.terminate = True


def on_gpu(device: str) -> bool:
    """Whether this onnxruntime will compute on a GPU for `device`; the usual package knows the CPU alone.

    Raises `EngineError` where there is no onnxruntime, or where a GPU was asked for by name and it cannot use one.
    """
    try:
        import onnxruntime
    except ImportError:
        raise EngineError("MDX-Net needs onnxruntime, which is not installed.", INSTALL) from None
    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device.startswith("cuda") and not there:
        raise EngineError(
            "MDX-Net cannot use the GPU: this onnxruntime computes on the CPU only.",
            "Install onnxruntime-gpu in its place, use device auto or cpu, or another separator.",
        )
    return there and device.split(":")[0] in ("auto", "cuda")


def _session(file: Path, device: str, threads: int) -> onnxruntime.InferenceSession:
    gpu = on_gpu(device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # or it keeps the largest of everything, for good
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores alone
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}))
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise ModelFileError(
            f"{file.name} is not an ONNX model that can be run: {str(error).splitlines()[0][:200]}",
            "Run `vividcover weights verify`.",
        ) from error


def _checked(session: onnxruntime.InferenceSession, config: MdxConfig, file: Path) -> str:
    """The name of the net's input. Raises `ModelFileError` where its shape is not what `config` says."""
    first = session.get_inputs()[0]
    wanted = (4, config.dim_f, config.dim_t)
    shape = tuple(first.shape)[1:]
    if len(shape) != 3 or any(isinstance(n, int) and n != w for n, w in zip(shape, wanted)):
        raise ModelFileError(
            f"{file.name} wants spectra of {first.shape}, not [B, {', '.join(map(str, wanted))}].",
            "Give the file that belongs to this model's name.",
        )
    return str(first.name)


class MdxSeparator:
    """A `Separator` of two stems: `primary`, which the net answers, and `rest`, what is left."""

    def __init__(self, name: str, net: MdxNet, primary: str, rest: str, mode: Mode = "overlap", parts: int = 2) -> None:
        """`parts`: of the parity mode, how many pieces the song is cut into; the published program takes two on a GPU
        of 8 GB or more, else one. Raises `ParameterError` for another mode."""
        if mode not in ("overlap", "parity"):
            raise ParameterError(f"Unknown separation mode {mode!r}.", "Choose overlap or parity.")
        self.name, self.net, self.rate, self.mode, self.parts = name, net, RATE, mode, parts
        self.stems: tuple[str, ...] = (primary, rest)

    def separate(
        self, song: Path, folder: Path, *, reporter: Reporter | None = None, span: tuple[float, float] = (0.0, 1.0)
    ) -> dict[str, Path]:
        if self.mode == "overlap":
            gain = {"stem": self.net.config.compensate}
            return NetSeparator(self.name, self.net, {"stem": self.stems[0]}, self.stems[1], gain).separate(
                song, folder, reporter=reporter, span=span
            )
        return self._parity(song, folder, reporter or Silent(), span)

    def _parity(self, song: Path, folder: Path, reporter: Reporter, span: tuple[float, float]) -> dict[str, Path]:
        files = {stem: folder / f"{stem}.wav" for stem in self.stems}
        folder.mkdir(parents=True, exist_ok=True)
        with PcmReader(song) as reader, contextlib.ExitStack() as stack:
            if reader.rate != RATE:
                raise AudioError(f"{song.name} has {reader.rate} Hz, not {RATE}.", "Decode the song at 44,100 Hz.")
            heard = Stereo(reader)
            peak = np.float32(levels(heard, reporter).peak or 1.0)
            compensate = np.float32(self.net.config.compensate)
            primary, rest = (stack.enter_context(PcmWriter(f, reader.rate, reader.channels)) for f in files.values())
            at = 0
            for block in self._side_by_side(Scaled(heard, 0.0, float(peak)), reporter, span):
                stem = fitted(block[0] * peak, reader.channels)
                primary.write(stem)
                rest.write(reader.read(at, stem.shape[1]) / peak - compensate * stem)
                at += stem.shape[1]
        return files

    def _side_by_side(self, song: Source, reporter: Reporter, span: tuple[float, float]) -> Iterator[Batch]:
        """The stem of a levelled song, piece after piece; chunks within a piece touch and do not overlap."""
        config, begun = self.net.config, span[0]
        half = config.n_fft // 2
        kept = config.chunk - 2 * half
        chunks = Chunks(config.chunk, kept, "flat", margin=half, lead=half, batch=self.net.chunks.batch)
        pieces = _pieces(song.frames, self.parts)
        for start, stop, drop, end in pieces:
            share = (begun, begun + (span[1] - span[0]) / len(pieces))
            text = f"separating ({self.name})"
            piece, at = Part(song, start, stop), start
            for block in overlap_add(self.net, piece, chunks, reporter, text=text, span=share, stop=self.net.stop):
                low, high = max(0, drop - at), min(block.shape[-1], end - at)
                if high > low:
                    yield block[..., low:high]
                at += block.shape[-1]
            begun = share[1]


def _pieces(frames: int, parts: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, first sample kept, end of those kept) of the pieces of a song, as AICoverGen cuts it."""
    size = max(1, frames // parts)
    if parts <= 1 or size <= MARGIN:  # too short for margins: one piece (where the published program fails)
        return [(0, frames, 0, frames)]
    found = []
    for skip in range(0, frames, size):
        stop = min(skip + size + MARGIN, frames)
        last = stop == frames
        found.append((max(0, skip - MARGIN), stop, skip, frames if last else skip + size))
        if last:
            break
    return found
