"""What a training would fail at later is found before any work: wrong choices, missing packages and captioners."""

from __future__ import annotations

import torch

from vividcover.errors import ParameterError
from vividcover.image import captions
from vividcover.image.flux import log, optimizers
from vividcover.image.flux.config import FluxConfig
from vividcover.image.flux.lora import chosen
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.trainee import Method
from vividcover.weights import Resolver


def look_ahead(
    options: TrainOptions, config: FluxConfig, method: Method, device: torch.device, dtype: torch.dtype,
    weights: Resolver | None,
) -> None:  # fmt: skip
    """Reads nothing and opens nothing. Raises `ParameterError`, `WeightsError` for a captioner that was named and is
    not here, `EngineError` for a package that is not installed."""
    chosen(config, options.pattern)
    if options.compile and device.type != "cuda":
        raise ParameterError(f"Compiling is for CUDA devices, not for {device.type}.", "Leave `compile` out.")
    there = torch.cuda.device_count()
    if device.type == "cuda" and options.processes > there:
        raise ParameterError(f"{options.processes} processes for {there} GPUs.", "Choose one process per GPU at most.")
    method.check(options, dtype)
    optimizers.ready(options.optimizer)
    log.ready(tensorboard=options.tensorboard, wandb=bool(options.wandb_project))
    captions.ready(options.captioner, weights)
