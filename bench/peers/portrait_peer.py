"""The peer of bench/portrait.py: Stable Video Diffusion's blocks in diffusers, with Sonic's audio as it was published.

    python bench/peers/portrait_peer.py JOB.json        does one job in this process; the last line is its result

diffusers' own network, whose 32 layers of cross attention get a second pair of keys and values for the audio tokens.
What makes it the published layout: in time, CLIP's vector and the audio tokens are copied for every place of the
picture and projected there, anew in every step; CLIP's branch is a whole attention, although it has one key only; the
three branches of guidance go through as one batch; the mask is brought to each layer's size in each layer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES: dict[str, dict[str, Any]] = {  # as diffusers names them; `tiny` and `full` are config.TINY and config.FULL
    "tiny": {"block_out_channels": (32, 64, 96, 96), "num_attention_heads": (2, 4, 6, 6), "cross_attention_dim": 48,
             "addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 48},
    "small": {"block_out_channels": (64, 128, 256, 256), "num_attention_heads": (2, 4, 8, 8),
              "cross_attention_dim": 128, "addition_time_embed_dim": 32, "projection_class_embeddings_input_dim": 96},
    "full": {"block_out_channels": (320, 640, 1280, 1280), "num_attention_heads": (5, 10, 20, 20),
             "cross_attention_dim": 1024, "addition_time_embed_dim": 256,
             "projection_class_embeddings_input_dim": 768},
}  # fmt: skip
TOKENS = {"tiny": 6, "small": 16, "full": 32}  # of audio, for each frame
FPS, FRAMES, BRANCHES = 12.5, 25, 3
WEIGHTS = (-1.0, -5.5, 7.5)  # nothing; picture; picture and voice


class Heard(nn.Module):
    """Cross attention on CLIP's vector, and beside it on the audio tokens that `now` holds."""

    def __init__(self, attention: Any, now: Now) -> None:
        super().__init__()
        channels, context = attention.to_q.in_features, attention.to_k.in_features
        self.to_k_ip = nn.ModuleList([nn.Linear(context, channels, bias=False)])
        self.to_v_ip = nn.ModuleList([nn.Linear(context, channels, bias=False)])
        self.now = [now]  # in a list: it is no part of the network

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        query = _heads(attn.to_q(hidden_states), attn.heads)
        seen = _attended(query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        now, rows, places = self.now[0], *hidden_states.shape[:2]
        spatial = rows == now.tokens.shape[0] and places != now.frames
        tokens = now.tokens if spatial else now.over_time(rows)
        heard = _attended(query, self.to_k_ip[0](tokens), self.to_v_ip[0](tokens), attn.heads)
        if spatial:
            heard = heard * now.mask_of(places).to(heard.dtype)
        return attn.to_out[1](attn.to_out[0](seen + heard))


class Now:
    """What the layers hear in this pass."""

    def __init__(self) -> None:
        self.tokens, self.mask, self.frames = torch.empty(0), torch.empty(0), FRAMES

    def over_time(self, rows: int) -> Tensor:
        """[B·H·W, T, C]: the mean over the frames, once for every place."""
        mean = self.tokens.unflatten(0, (-1, self.frames)).mean(1)  # [B, T, C]
        return mean.repeat_interleave(rows // mean.shape[0], 0)

    def mask_of(self, places: int) -> Tensor:
        """[1, H·W, 1]"""
        height, width = self.mask.shape
        rows = int(math.sqrt(places * height / width))
        mask = F.interpolate(self.mask[None, None], (rows, places // rows), mode="bicubic")
        return mask.view(1, places, 1)


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    return F.scaled_dot_product_attention(query, _heads(key, heads), _heads(value, heads)).transpose(1, 2).flatten(2)


def made(size: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Now]:
    """A network of random weights on `device`, with no copy of it anywhere else."""
    from diffusers import UNetSpatioTemporalConditionModel

    now = Now()

    def build() -> Any:
        net = UNetSpatioTemporalConditionModel(
            **SIZES[size], in_channels=8, out_channels=4, layers_per_block=2, num_frames=FRAMES
        )
        for name, module in list(net.named_modules()):
            if name.endswith("attn2"):
                module.set_processor(Heard(module, now))
        return net

    torch.manual_seed(0)
    if device == "cpu":
        return build().to(dtype).eval(), now
    with torch.device("meta"):
        net = build().to(dtype)
    net = net.to("meta") if device == "meta" else net.to_empty(device=device)
    if device != "meta":
        with torch.no_grad():
            for name, value in net.named_parameters():
                value.fill_(1.0) if value.dim() == 1 and "norm" in name else value.normal_(0, 0.02)
    return net.eval(), now


def inputs(job: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """One window, the same for both sides: latents, those of the still, CLIP's vector, audio tokens, the mask."""
    random, side, frames = torch.Generator().manual_seed(1), job["side"] // 8, job.get("frames", FRAMES)
    context = SIZES[job["size"]]["cross_attention_dim"]

    def draw(*shape: int) -> Tensor:
        if device == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        return torch.randn(shape, generator=random).to(device, dtype)

    mask = torch.zeros(job["side"], job["side"])
    mask[job["side"] // 4 : -job["side"] // 4, job["side"] // 4 : -job["side"] // 4] = 1.0
    tokens = TOKENS[job["size"]]
    return {
        "latents": draw(frames, 4, side, side), "still": draw(1, 4, side, side), "clip": draw(1, context),
        "audio": draw(frames, tokens, context), "silent": draw(1, tokens, context), "mask": mask.to(device, dtype),
    }  # fmt: skip


class Peer:
    """A network, and one step of one window: three branches, guidance, Euler."""

    def __init__(self, job: dict[str, Any], device: str, dtype: torch.dtype) -> None:
        self.net, self.now = made(job["size"], device, dtype)
        if job.get("weights"):
            from safetensors.torch import load_file

            self.net.load_state_dict(load_file(job["weights"]))
        given = inputs(job, device, dtype)
        frames, still, clip = len(given["latents"]), given["still"], given["clip"]
        silent = given["silent"].expand_as(given["audio"])
        self.latents = given["latents"][None]  # [1, F, 4, h, w]
        pictures = torch.cat((torch.zeros_like(still), still, still))
        self.pictures = pictures[:, None].repeat(1, frames, 1, 1, 1)
        self.clips = torch.stack((torch.zeros_like(clip), clip, clip))  # [3, 1, C]
        self.now.tokens = torch.cat((silent, silent, given["audio"]))  # [3·F, T, C]
        self.now.mask, self.now.frames = given["mask"], frames
        self.added = torch.tensor([[FPS, 127.0, 127.0]] * BRANCHES, device=device, dtype=dtype)
        self.weights = torch.tensor(WEIGHTS, device=device, dtype=dtype).view(-1, 1, 1, 1, 1)

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        """[1, F, 4, h, w]"""
        scaled = torch.cat([x] * BRANCHES) / math.sqrt(sigma * sigma + 1)
        time = torch.tensor(0.25 * math.log(sigma), device=x.device, dtype=x.dtype)
        found = self.net(
            torch.cat((scaled, self.pictures), 2), time, self.clips, added_time_ids=self.added, return_dict=False
        )[0]
        velocity: Tensor = (found * self.weights).sum(0, keepdim=True)
        return velocity

    def step(self, x: Tensor, sigma: float, then: float) -> Tensor:
        clean = x / (sigma * sigma + 1) - self.velocity(x, sigma) * sigma / math.sqrt(sigma * sigma + 1)
        return x + (then - sigma) * (x - clean) / sigma


# --- jobs ------------------------------------------------------------------------------------------------------------


def dtype_of(device: str) -> torch.dtype:
    """What the published program computes in; on a CPU, float32."""
    return torch.float16 if device.startswith("cuda") else torch.float32


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """The weights of a small network as a file that both sides read."""
    from safetensors.torch import save_file

    net, _ = made(job["size"])
    random = torch.Generator().manual_seed(2)
    state = {}
    for name, value in sorted(net.state_dict().items()):
        spread = 0.1 if value.dim() < 2 else 1 / math.sqrt(value[0].numel())
        centre = 1.0 if value.dim() == 1 and "norm" in name and name.endswith("weight") else 0.0
        state[name] = (centre + spread * torch.randn(value.shape, generator=random)).contiguous()
    path = Path(job["folder"]) / f"{job['size']}.safetensors"
    save_file(state, path)
    return {"weights": str(path), "parameters": sum(value.numel() for value in state.values()), "tensors": len(state)}


def window(job: dict[str, Any]) -> dict[str, Any]:
    """`steps` steps of one window, after one that is not counted."""
    device = job["device"]
    peer = Peer(job, device, dtype_of(device))
    levels = [20.0 * 0.8**i for i in range(job["steps"] + 1)]
    first: dict[str, float] = {}
    with torch.inference_mode():
        with spent(first, device):
            velocity = peer.velocity(peer.latents, levels[0])
        peak(device, anew=True)
        x: Tensor = peer.latents
        cost: dict[str, float] = {}
        with spent(cost, device):
            for now, then in itertools.pairwise(levels):
                x = peer.step(x, now, then)
    if job.get("keep"):
        from safetensors.torch import save_file

        save_file({"velocity": velocity[0].float().cpu().contiguous()}, job["keep"])
    return {**cost, "steps": job["steps"], "memory_gb": peak(device), "first_s": first["wall_s"]}


def counted(job: dict[str, Any]) -> dict[str, Any]:
    """FLOPs, calls of torch and the most memory of one window's step at full size, on the meta device."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from measure_portrait import work_of

    peer = Peer({**job, "size": job.get("size", "full")}, "meta", torch.float16)
    with torch.inference_mode():
        return work_of(lambda: peer.velocity(peer.latents, 20.0))


def decode(job: dict[str, Any]) -> dict[str, Any]:
    """diffusers' autoencoder on pieces of eight frames."""
    device, side, pieces = job["device"], job["side"] // 8, job.get("chunks", 4)
    vae = random_vae(job["size"], device, dtype_of(device))
    latents = 0.1 * torch.randn(8, 4, side, side).to(device, dtype_of(device))
    cost: dict[str, float] = {}
    with torch.inference_mode():
        vae.decode(latents, num_frames=8)
        peak(device, anew=True)
        with spent(cost, device):
            for _ in range(pieces):
                vae.decode(latents, num_frames=8)
    return {**cost, "frames": 8 * pieces, "memory_gb": peak(device)}


def random_vae(size: str, device: str, dtype: torch.dtype) -> Any:
    """SVD's autoencoder with random weights; narrow where the size is not `full`."""
    from diffusers import AutoencoderKLTemporalDecoder

    wide = (128, 256, 512, 512) if size == "full" else (32, 32, 64, 64)
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=wide, layers_per_block=2,
            latent_channels=4, sample_size=768,
        )  # fmt: skip
    return vae.to(dtype).eval().requires_grad_(False)


# --- what both sides measure with ------------------------------------------------------------------------------------


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


def peak(device: str, anew: bool = False) -> float | None:
    """GB on the GPU at most since `anew`; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    if anew:
        torch.cuda.reset_peak_memory_stats()
    return round(torch.cuda.max_memory_allocated() / 1e9, 2)


def settle() -> None:
    """Without the libraries' warnings."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


JOBS = {"prepare": prepare, "window": window, "counted": counted, "decode": decode}


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
