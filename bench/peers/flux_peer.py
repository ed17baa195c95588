"""The peer of bench/image.py: FLUX in diffusers, a LoRA in peft, and the loop that trainers put around them.

    python bench/peers/flux_peer.py JOB.json        does one job in this process; the last line is its result

The loop is that of diffusers' `train_dreambooth_lora_flux.py` with the recipe of ostris/ai-toolkit (rank 16 on all 494
layers of the blocks, alpha = rank, levels of noise from a logit-normal, guidance 1, AdamW, gradients cut at 1, a moving
average of .99), latents and embeddings cached, everything eager. On a GPU the base is bfloat16, the LoRA float32, and
autocast stands between them, as in that script.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LAYERS = {  # of every block, by diffusers' names
    "transformer_blocks": (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
        "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "norm1.linear",
        "norm1_context.linear",
    ),
    "single_transformer_blocks": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out", "norm.linear"),
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_layers": 2, "num_single_layers": 3, "num_attention_heads": 2, "attention_head_dim": 16,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 6, 6),
    },
    "small": {
        "num_layers": 3, "num_single_layers": 6, "num_attention_heads": 8, "attention_head_dim": 64,
        "joint_attention_dim": 512, "pooled_projection_dim": 256, "axes_dims_rope": (16, 24, 24),
    },
    "full": {
        "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
        "joint_attention_dim": 4096, "pooled_projection_dim": 768, "axes_dims_rope": (16, 56, 56),
    },
}  # fmt: skip
RANK, DECAY, LENGTH, RATE = 16, 0.99, 1.0, 4e-4


@contextlib.contextmanager
def spent(cost: dict[str, float], device: str) -> Iterator[None]:
    """CPU-seconds of this process and wall seconds, into `cost`."""
    wait(device)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    wait(device)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cost["cpu_s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cost["wall_s"] = time.perf_counter() - began


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def names(config: dict[str, Any]) -> list[str]:
    """Every layer that the LoRA changes, by diffusers' name."""
    counts = {"transformer_blocks": config["num_layers"], "single_transformer_blocks": config["num_single_layers"]}
    return [f"{kind}.{i}.{layer}" for kind, count in counts.items() for i in range(count) for layer in LAYERS[kind]]


def made(size: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A transformer of random weights on `device`, with no copy of it anywhere else."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    if device == "cpu":
        return FluxTransformer2DModel(**SIZES[size], in_channels=64, guidance_embeds=True).eval()
    with torch.device("meta"):
        net = FluxTransformer2DModel(**SIZES[size], in_channels=64, guidance_embeds=True).to(dtype)
    net = net.to_empty(device=device).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.fill_(1.0) if value.dim() == 1 and "norm_" in name else value.normal_(0, 0.02)
    return net


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """The weights of a small network, and the cached pictures and captions of a training, as files that both read."""
    from safetensors.torch import save_file

    folder, config = Path(job["folder"]), SIZES[job["size"]]
    folder.mkdir(parents=True, exist_ok=True)
    if job["size"] != "full":
        made(job["size"]).save_pretrained(str(folder / "transformer"))
    random = torch.Generator().manual_seed(1)
    data = {}
    for number, side in enumerate(job["sides"]):
        data[f"latent_{number}"] = torch.randn(16, side // 8, side // 8, generator=random)
    for text in {job["text"], *job.get("texts", [])}:
        data[f"tokens_{text}"] = torch.randn(text, config["joint_attention_dim"], generator=random) * 0.2
    data["pooled"] = torch.randn(config["pooled_projection_dim"], generator=random)
    save_file(data, folder / "data.safetensors")
    return {"parameters": sum(p.numel() for p in made(job["size"]).parameters()) if job["size"] != "full" else 0}


class Peer:
    """The network with its LoRA, and one step of training."""

    def __init__(self, job: dict[str, Any]) -> None:
        from diffusers import FluxTransformer2DModel
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig
        from safetensors.torch import load_file

        self.device, self.half = job["device"], job["device"].startswith("cuda")
        dtype = torch.bfloat16 if self.half else torch.float32
        folder = Path(job["folder"])
        if job["size"] == "full":
            self.net = made("full", self.device, dtype)
        else:
            self.net = FluxTransformer2DModel.from_pretrained(str(folder / "transformer"), torch_dtype=dtype)
            self.net.to(self.device)
        self.net.requires_grad_(False)
        torch.manual_seed(2)
        layers = names(SIZES[job["size"]])
        self.net.add_adapter(
            LoraConfig(r=job.get("rank", RANK), lora_alpha=job.get("rank", RANK), target_modules=layers)
        )
        if self.half:
            cast_training_params(self.net, dtype=torch.float32)
        if job.get("checkpointing"):
            self.net.enable_gradient_checkpointing()
        self.net.train()
        data = {key: value.to(self.device) for key, value in load_file(folder / "data.safetensors").items()}
        self.latents = [data[f"latent_{i}"] for i in range(len([key for key in data if key.startswith("latent")]))]
        self.tokens, self.pooled = data[f"tokens_{job['text']}"][None].to(dtype), data["pooled"][None].to(dtype)
        self.weights = [p for p in self.net.parameters() if p.requires_grad]

    def loss(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """latents, noise [1, 16, h, w]; sigma [1]"""
        from diffusers import FluxPipeline

        _, channels, h, w = latents.shape
        mixed = (1 - sigma[:, None, None, None]) * latents + sigma[:, None, None, None] * noise
        packed = FluxPipeline._pack_latents(mixed, 1, channels, h, w)
        ids = FluxPipeline._prepare_latent_image_ids(1, h // 2, w // 2, self.device, self.tokens.dtype)
        text_ids = torch.zeros(self.tokens.shape[1], 3, device=self.device, dtype=self.tokens.dtype)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half):
            said = self.net(
                hidden_states=packed.to(self.tokens.dtype), timestep=sigma, guidance=torch.ones(1, device=self.device),
                pooled_projections=self.pooled, encoder_hidden_states=self.tokens, txt_ids=text_ids, img_ids=ids,
                return_dict=False,
            )[0]  # fmt: skip
        said = FluxPipeline._unpack_latents(said, h * 8, w * 8, 8)
        return (said.float() - (noise - latents).float()).square().mean()


def train(job: dict[str, Any]) -> dict[str, Any]:
    """`steps` steps after `warm`: the cost of these alone."""
    from diffusers.training_utils import EMAModel

    peer, device = Peer(job), job["device"]
    optimizer = torch.optim.AdamW(peer.weights, lr=RATE, weight_decay=0.01)
    average = EMAModel(peer.weights, decay=DECAY, foreach=True)
    random = torch.Generator().manual_seed(3)
    losses: list[float] = []

    def step(number: int) -> None:
        latents = peer.latents[number % len(peer.latents)][None]
        sigma = torch.sigmoid(torch.randn(1, generator=random)).to(device)
        noise = torch.randn(latents.shape, generator=random).to(device)
        loss = peer.loss(latents, noise, sigma)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.weights, LENGTH)
        optimizer.step()
        optimizer.zero_grad()
        average.step(peer.weights)
        if not device.startswith("cuda"):
            losses.append(loss.item())  # as its progress bar does

    for number in range(job["warm"]):
        step(number)
    peak(device, anew=True)
    cost: dict[str, float] = {}
    with spent(cost, device):
        for number in range(job["steps"]):
            step(number)
    return {
        **cost,
        "steps": job["steps"],
        "memory_gb": peak(device),
        "parameters": sum(w.numel() for w in peer.weights),
    }


def peak(device: str, anew: bool = False) -> float | None:
    """GB on the GPU at most since `anew`; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    if anew:
        torch.cuda.reset_peak_memory_stats()
    return round(torch.cuda.max_memory_allocated() / 1e9, 2)


def gradients(job: dict[str, Any]) -> dict[str, Any]:
    """Loss and gradients for a LoRA that is not zero any more, with noise and level of it, into a file."""
    from safetensors.torch import save_file

    peer = Peer(job)
    random = torch.Generator().manual_seed(4)
    held: dict[str, Tensor] = {}
    for name, weight in peer.net.named_parameters():
        if weight.requires_grad:
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=random) * 0.05)
            held[name.replace(".default", "")] = weight
    latents = peer.latents[0][None]
    noise, sigma = torch.randn(latents.shape, generator=random).to(peer.device), torch.tensor([0.6], device=peer.device)
    loss = peer.loss(latents, noise, sigma)
    loss.backward()
    folder = Path(job["folder"])
    save_file({f"transformer.{k}": v.detach().cpu().contiguous() for k, v in held.items()}, folder / "lora.safetensors")
    found = {f"transformer.{k}": v.grad.cpu().contiguous() for k, v in held.items() if v.grad is not None}
    save_file(found | {"noise": noise.cpu()[0], "sigma": sigma.cpu()}, folder / "gradients.safetensors")
    return {"loss": loss.item()}


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """The sampling loop of a picture with the LoRA added into the weights, from noise to latents."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    peer, device = Peer(job), job["device"]
    peer.net.eval()
    peer.net.fuse_lora()
    h, w = peer.latents[0].shape[1:]
    ids = FluxPipeline._prepare_latent_image_ids(1, h // 2, w // 2, device, peer.tokens.dtype)
    text_ids = torch.zeros(peer.tokens.shape[1], 3, device=device, dtype=peer.tokens.dtype)

    def run() -> None:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        scheduler.set_timesteps(job["steps"], mu=1.15)
        x = FluxPipeline._pack_latents(torch.randn(1, 16, h, w), 1, 16, h, w).to(device, peer.tokens.dtype)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                said = peer.net(
                    hidden_states=x, timestep=t.expand(1).to(x) / 1000, guidance=torch.full((1,), 3.5, device=device),
                    pooled_projections=peer.pooled, encoder_hidden_states=peer.tokens, txt_ids=text_ids, img_ids=ids,
                    return_dict=False,
                )[0]  # fmt: skip
                x = scheduler.step(said, t, x, return_dict=False)[0]

    run()
    peak(device, anew=True)
    cost: dict[str, float] = {}
    with spent(cost, device):
        run()
    return {**cost, "steps": job["steps"], "memory_gb": peak(device)}


def counted(job: dict[str, Any]) -> dict[str, Any]:
    """FLOPs and calls of torch of one pass at full size on the meta device; with a LoRA, forward and backward."""
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from peft import LoraConfig

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from measure_image import work_of

    config, h = SIZES["full"], job["side"] // 8
    with torch.device("meta"):
        net = FluxTransformer2DModel(**config, in_channels=64, guidance_embeds=True).to(torch.bfloat16)
        net.requires_grad_(False)
        if job["lora"]:
            net.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names(config)))
        x, one = torch.empty(1, (h // 2) ** 2, 64).bfloat16(), torch.empty(1)
        tokens = torch.empty(1, job["text"], config["joint_attention_dim"]).bfloat16()
        pooled = torch.empty(1, config["pooled_projection_dim"]).bfloat16()
        ids = FluxPipeline._prepare_latent_image_ids(1, h // 2, h // 2, "meta", torch.float32)
        text_ids = torch.zeros(job["text"], 3)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            said = net(
                hidden_states=x, timestep=one, guidance=one, pooled_projections=pooled, encoder_hidden_states=tokens,
                txt_ids=text_ids, img_ids=ids, return_dict=False,
            )[0]  # fmt: skip
        if job["lora"]:
            said.float().square().mean().backward()

    with torch.set_grad_enabled(bool(job["lora"])):
        return work_of(step)


def settle() -> None:
    """Without the libraries' warnings."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


JOBS = {"prepare": prepare, "train": train, "gradients": gradients, "generate": generate, "counted": counted}


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job.get("threads", 1))
    settle()
    with contextlib.redirect_stdout(sys.stderr):
        result = JOBS[job["kind"]](job)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
