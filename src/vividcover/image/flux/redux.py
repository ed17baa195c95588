"""FLUX Redux: a picture as part of the prompt. SigLIP sees it, a projector says it in T5's words.

    redux = Redux(weights.path("flux-redux"), siglip=None, device=device, dtype=dtype)
    tokens = redux.tokens(rgb)  # [1, 729, 4096], to stand behind the words' tokens

Layers and names: Black Forest Labs' flux repository (Apache-2.0) and diffusers' `ReduxImageEncoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vividcover.errors import WeightsError
from vividcover.image.flux.folders import AGAIN, processor_of, strictly
from vividcover.image.flux.request import Rgb
from vividcover.tensors import check_keys, read_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Redux:
    """Reads its nets when it is first asked.

    `folder` is diffusers' (`image_encoder/`, `feature_extractor/`, `image_embedder/`), or holds Black Forest Labs' one
    file of the projector; then, or where a folder lacks the encoder, `siglip` is SigLIP's own folder.
    """

    def __init__(self, folder: Path, siglip: Path | None = None, *, device: torch.device, dtype: torch.dtype) -> None:
        self.folder, self.siglip, self.device, self.dtype = folder, siglip, device, dtype
        self._sees: Any = None
        self._says: Any = None
        self._prepare: Any = None

    def tokens(self, rgb: Rgb, strength: float = 1.0) -> Tensor:
        """[1, 729, 4096] of a picture [H,W,3], scaled by `strength`: 0 says nothing, 1 is what the projector says."""
        import torch

        self.ready()
        with torch.inference_mode():
            prepared = self._prepare.preprocess(images=rgb, do_resize=True, return_tensors="pt", do_convert_rgb=True)
            seen = self._sees(pixel_values=prepared["pixel_values"].to(self.device, self.dtype)).last_hidden_state
            said: Tensor = self._says(seen)
            return said * strength

    def ready(self) -> None:
        """Raises `WeightsError` or `ModelFileError` for files that are not Redux."""
        if self._says is not None:
            return
        from transformers import SiglipVisionModel

        says = projector(_projector_file(self.folder)).to(self.device, self.dtype)
        whole = self.folder / "image_encoder"
        encoder = whole if whole.is_dir() else self.siglip
        if encoder is None:
            raise WeightsError(f"{self.folder} has no image_encoder.", "Redux needs SigLIP too: `weights pull siglip`.")
        features = self.folder / "feature_extractor"
        self._prepare = processor_of("SiglipImageProcessor", features if features.is_dir() else encoder)
        self._sees = strictly(SiglipVisionModel, encoder, "SigLIP", dtype=self.dtype).to(self.device)
        self._says = says

    def release(self) -> None:
        """Frees the memory; the next call reads the nets again."""
        self._sees = self._says = None


def projector(path: Path) -> Any:
    """The net that turns SigLIP's 1152 numbers of a patch into T5's 4096: up, SiLU, down."""
    from torch import nn

    tensors = read_tensors(path, "Redux's projector")
    up, down = tensors.get("redux_up.weight"), tensors.get("redux_down.weight")
    if up is None or down is None:
        raise WeightsError(f"{path.name} is not Redux's projector: it has no redux_up and redux_down.", AGAIN)
    net = nn.Sequential()
    net.add_module("redux_up", nn.Linear(up.shape[1], up.shape[0], device="meta"))
    net.add_module("act", nn.SiLU())
    net.add_module("redux_down", nn.Linear(down.shape[1], down.shape[0], device="meta"))
    check_keys(net, tensors, "Redux's projector", assign=True)
    return net.eval().requires_grad_(False)


def _projector_file(folder: Path) -> Path:
    if folder.is_file():
        return folder
    there = sorted((folder / "image_embedder").glob("*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if len(there) != 1:
        raise WeightsError(f"{folder} holds {len(there)} files that could be Redux's projector.", AGAIN)
    return there[0]
