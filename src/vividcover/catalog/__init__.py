"""The models that ship with the program, under the names that the seeds give them. One file a model."""

from __future__ import annotations

from vividcover.catalog.contract import Context, Engine, Made, Model, NotHonoured, Result
from vividcover.catalog.create_rvc_dataset import CreateRvcDataset
from vividcover.catalog.fast_flux_trainer import FastFluxTrainer
from vividcover.catalog.flux_dev_lora_trainer import FluxDevLoraTrainer
from vividcover.catalog.flux_lora import FluxLora
from vividcover.catalog.flux_pro_finetuned import (
    FluxProCannyFinetuned,
    FluxProDepthFinetuned,
    FluxProFillFinetuned,
    FluxProFinetuned,
    FluxProUltraFinetuned,
)
from vividcover.catalog.flux_pro_trainer import FluxProTrainer
from vividcover.catalog.hello import Hello
from vividcover.catalog.realistic_voice_cloning import RealisticVoiceCloning
from vividcover.catalog.sonic import Sonic
from vividcover.catalog.train_rvc_model import TrainRvcModel

SHIPPED: tuple[Model, ...] = (
    CreateRvcDataset(), TrainRvcModel(), RealisticVoiceCloning(), FastFluxTrainer(), FluxLora(), Sonic(),
    FluxDevLoraTrainer(), FluxProTrainer(), FluxProFinetuned(), FluxProUltraFinetuned(), FluxProDepthFinetuned(),
    FluxProCannyFinetuned(), FluxProFillFinetuned(), Hello(),
)  # fmt: skip

__all__ = ["SHIPPED", "Context", "Engine", "Made", "Model", "NotHonoured", "Result"]
