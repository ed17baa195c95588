"""What the torch separators share: attention, and the shell that makes a torch module a `Net` of `contract.py`.

The shell moves numpy in and out, computes in half precision where asked to, halves a batch that does not fit
into the device's memory, and ends a call between two layers when the user cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vividcover.errors import Canceled, EngineError, ParameterError
from vividcover.song.separators.overlap import Batch, Chunks


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v, all [B, heads, N, d]; torch picks a kernel that never holds the N×N matrix where it can."""
    return F.scaled_dot_product_attention(q, k, v)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads·d] -> [B, heads, N, d]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads·d]."""
    return x.transpose(1, 2).flatten(2)


class TorchNet:
    """A `Net` (see `contract.py`) around `answer`, a function of tensors [B, 2, N] -> [B, S, 2, N] on `device`.

    `layers` are the modules between which a call can be ended. `dtype`: float16 is for a GPU; bfloat16
    also helps a CPU that has it in hardware. Without `autocast`, `answer` itself sees to where `dtype` is used.
    """

    def __init__(
        self,
        answer: Callable[[Tensor], Tensor],
        layers: Iterable[nn.Module],
        *,
        stems: Sequence[str],
        chunks: Chunks,
        level: str = "none",
        rate: int = 44_100,
        mirror: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast: bool = True,
    ) -> None:
        self.stems, self.chunks, self.level, self.rate, self.mirror = tuple(stems), chunks, level, rate, mirror
        self.device, self.dtype, self._answer, self._halted = torch.device(device), dtype, answer, False
        self._half = autocast and dtype != torch.float32
        if dtype == torch.float16 and self.device.type == "cpu":
            raise ParameterError("Separating in fp16 is for a GPU.", "Choose fp32, or bf16 on a CPU that has it.")
        for layer in layers:
            layer.register_forward_pre_hook(self._between)

    def _between(self, *_: object) -> None:
        if self._halted:
            raise Canceled()

    def stop(self) -> None:
        """Ends a call that is under way, before its next layer."""
        self._halted = True

    def __call__(self, mixtures: Batch) -> Batch:
        """[B, 2, chunks.size] -> [B, len(stems), 2, chunks.size]. Raises `EngineError` when memory does not suffice."""
        self._halted = False
        half = torch.autocast(self.device.type, self.dtype, enabled=self._half)
        with torch.inference_mode(), half:
            answers = self._fit(torch.from_numpy(np.ascontiguousarray(mixtures, np.float32)))
        found: Batch = answers.numpy()
        return found

    def _fit(self, mixtures: Tensor) -> Tensor:
        try:
            return self._answer(mixtures.to(self.device)).float().cpu()
        except torch.OutOfMemoryError as error:
            if len(mixtures) == 1:
                raise EngineError(
                    f"The memory of {self.device} does not suffice to separate {mixtures.shape[-1] / self.rate:.1f} s "
                    "of song at once.",
                    "Close what else uses it, choose a smaller model, or device `cpu`.",
                ) from error
        torch.cuda.empty_cache()
        middle = len(mixtures) // 2
        return torch.cat([self._fit(mixtures[:middle]), self._fit(mixtures[middle:])])
