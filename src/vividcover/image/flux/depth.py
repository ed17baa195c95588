"""How far away each part of a picture is, for FLUX Depth: Depth Anything, near is white.

depth = Depth(weights.path("depth-anything-v2-small"), device=device)
control = depth.of(rgb)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vividcover.image.flux.folders import processor_of, strictly
from vividcover.image.flux.request import Rgb

if TYPE_CHECKING:
    import torch


class Depth:
    """The net, read from its folder when it is first asked. Raises `WeightsError` for a folder that is not it."""

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._net: Any = None
        self._prepare: Any = None

    def of(self, rgb: Rgb) -> Rgb:
        """Grey [H,W,3] of the same size; the nearest part is 255 and the farthest 0."""
        import torch

        self.ready()
        with torch.inference_mode():
            pixels = self._prepare(images=rgb, return_tensors="pt")["pixel_values"].to(self.device)
            inverse = self._net(pixel_values=pixels).predicted_depth[:, None].float()  # [1,1,h,w], larger is nearer
            full = torch.nn.functional.interpolate(inverse, rgb.shape[:2], mode="bicubic", align_corners=False)[0, 0]
            low, high = full.min(), full.max()
            grey = ((full - low) / (high - low).clamp_min(1e-8) * 255).round().byte().cpu().numpy()
        return np.repeat(grey[..., None], 3, axis=2)

    def ready(self) -> None:
        if self._net is None:
            from transformers import DepthAnythingForDepthEstimation

            self._prepare = processor_of("DPTImageProcessor", self.folder)
            self._net = strictly(DepthAnythingForDepthEstimation, self.folder, "the depth net").to(self.device)

    def release(self) -> None:
        """Frees the memory; the next call reads the net again."""
        self._net = None
