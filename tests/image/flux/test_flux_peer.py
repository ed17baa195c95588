"""The loop's numbers are those of diffusers' network, peft's LoRA and torch's optimizer, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flux_making import tiny_flux_folder
from vividcover.image.flux.data import Item, Store, TrainingSet, draws
from vividcover.image.flux.latents import pack, positions
from vividcover.image.flux.loop import Course, learn
from vividcover.image.flux.opening import BaseFiles, open_base
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import fit
from vividcover.image.flux.trainee import LORA
from vividcover.workspace import Silent

torch.set_num_threads(1)
CPU = torch.device("cpu")
STEPS = 4
OPTIONS = TrainOptions(
    steps=STEPS, batch_size=2, rank=4, resolution="64", optimizer="adamw", learning_rate=1e-3, ema=0.0,
    caption_dropout=0.2, text_length=8, max_grad_norm=0.05,
)  # fmt: skip


def lessons() -> TrainingSet:
    store, items = Store(), []
    for number in range(4):
        random = torch.Generator().manual_seed(number)
        store.put(f"item_{number:05d}", {"latent": torch.randn(16, 8, 6, generator=random)})
        items.append(Item(f"photo{number}", 1 + number % 2, 48, 64, 64))
    for number in range(3):
        random = torch.Generator().manual_seed(100 + number)
        texts = {"tokens": torch.randn(8, 32, generator=random), "pooled": torch.randn(32, generator=random)}
        store.put(f"text_{number:05d}", texts)
    return TrainingSet(items, ["", "one", "two"], store)


class Peer:
    """The textbook loop: stock diffusers and peft."""

    def __init__(self, folder: Path, start: dict[str, Any]) -> None:
        from diffusers import FluxTransformer2DModel
        from peft import LoraConfig
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

        self.net = FluxTransformer2DModel.from_pretrained(str(folder / "transformer")).eval().requires_grad_(False)
        self.net.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=list(start)))
        state = {}
        for name, pair in start.items():
            state |= {f"{name}.lora_A.weight": pair.a, f"{name}.lora_B.weight": pair.b}
        told = set_peft_model_state_dict(self.net, state)
        assert not told.unexpected_keys
        self.weights = [p for p in self.net.parameters() if p.requires_grad]
        assert len(self.weights) == 2 * len(start)
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-3, weight_decay=0.01)
        self.state = lambda: get_peft_model_state_dict(self.net)

    def step(self, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
        ids = positions(*batch.latents.shape[2:], 8)
        sigma = batch.sigma[:, None, None, None]
        said = self.net(
            hidden_states=pack((1 - sigma) * batch.latents + sigma * batch.noise), encoder_hidden_states=batch.tokens,
            pooled_projections=batch.pooled, timestep=batch.sigma, guidance=torch.ones(len(batch)),
            txt_ids=ids[:8], img_ids=ids[8:], return_dict=False,
        )[0]  # fmt: skip
        loss = torch.nn.functional.mse_loss(said, pack(batch.noise - batch.latents))
        self.optimizer.zero_grad()
        loss.backward()
        found = {n: p.grad.clone() for n, p in self.net.named_parameters() if p.requires_grad}
        torch.nn.utils.clip_grad_norm_(self.weights, 0.05)
        self.optimizer.step()
        return loss.item(), found


def test_losses_gradients_and_weights_are_those_of_diffusers_and_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_flux_folder()
    base = open_base(BaseFiles(folder, folder, folder))
    trainee = LORA.begin(base.flux, base.config, OPTIONS, "dev")
    for _, side in trainee.adapter.sides():  # type: ignore[attr-defined]
        side.b.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(len(side.names)))
    peer = Peer(folder, trainee.adapter.to_lora().pairs)  # type: ignore[attr-defined]
    found = lessons()
    course = Course("x", trainee, found, range(4), range(4), tmp_path, OPTIONS, fit(0, base.config, OPTIONS), CPU)

    losses: list[float] = []
    cosines: list[float] = []
    really = torch.nn.utils.clip_grad_norm_

    def compared(weights: Any, *given: Any, **more: Any) -> Any:
        """Looks at our gradients before they are cut, and lets the peer take the same step."""
        if weights[0] is not next(iter(trainee.named().values())):
            return really(weights, *given, **more)
        step = len(cosines)
        ids = loop.order.ids(step)
        batch = found.batch(ids, draws(OPTIONS.seed, step, 2), caption_dropout=OPTIONS.caption_dropout)
        ours = {name: weight.grad.clone() for name, weight in trainee.named().items() if weight.grad is not None}
        loss, theirs = peer.step(batch)
        losses.append(loss)
        cosines.append(cosine(trainee, ours, theirs))
        return really(weights, *given, **more)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", compared)
    from vividcover.image.flux.loop import _Loop

    loop = _Loop(course, Silent())
    loop.run()
    monkeypatch.undo()
    assert len(losses) == STEPS
    assert min(cosines) > 0.99999
    mean = loop.state.history[1]["loss"]
    assert mean == pytest.approx(sum(losses) / STEPS, rel=1e-5)
    state = peer.state()
    for name, pair in trainee.adapter.to_lora().pairs.items():  # type: ignore[attr-defined]
        assert torch.allclose(pair.a, state[f"{name}.lora_A.weight"], atol=1e-5), name
        assert torch.allclose(pair.b, state[f"{name}.lora_B.weight"], atol=1e-5), name
    assert learn(course, Silent()).steps == STEPS


def cosine(trainee: Any, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of all gradients as one vector; ours are stacked where layers share an input."""
    one, other = [], []
    for name, side in trainee.adapter.sides():
        for which, sizes in (("a", [side.rank] * len(side.names)), ("b", side.rows)):
            for part, grad in zip(side.names, ours[f"{name}.{which}"].split(sizes)):
                one.append(grad.flatten())
                other.append(theirs[f"{part}.lora_{which.upper()}.default.weight"].flatten())
    return float(torch.nn.functional.cosine_similarity(torch.cat(one), torch.cat(other), dim=0))
