"""One job of bench/portrait.py in a process of its own: steps of a window, counted work, decoding, a clip; ours.

    python bench/measure_portrait.py JOB.json       the last line is the result

Weights and inputs of a window are the peer's, which reads the same; both are measured by `portrait_peer.spent`.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from portrait_peer import FPS, SIZES, TOKENS, dtype_of, inputs, peak, random_vae, settle, spent

from vividcover.portrait.sonic.advance import Advance, Batch, Group, Sung
from vividcover.portrait.sonic.config import DECODE_CHUNK, SonicOptions, UNetConfig
from vividcover.portrait.sonic.guidance import Branch, Condition
from vividcover.portrait.sonic.network import MaskPyramid, SonicUNet
from vividcover.portrait.sonic.opening import Sonic, in_8_bits
from vividcover.portrait.sonic.plan import Move
from vividcover.portrait.sonic.sampler import Look
from vividcover.portrait.sonic.speed import CHEAP_TWO, compile_parts, sampled
from vividcover.portrait.sonic.windows import Window
from vividcover.workspace import Silent

LEVEL, THEN = 20.0, 16.0  # of noise


def config_of(size: str) -> UNetConfig:
    given = SIZES[size]
    return UNetConfig(
        channels=given["block_out_channels"], heads=given["num_attention_heads"],
        context=given["cross_attention_dim"], added=given["addition_time_embed_dim"],
    )  # fmt: skip


class Nets:
    """What of an opened Sonic the sampler uses: a UNet of the peer's file, or of random weights."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.device, self.dtype = torch.device(job["device"]), dtype_of(job["device"])
        self.quantise, self.notes, self.key = "fp8" if job.get("fp8") else None, [], "random"  # type: ignore[var-annotated]
        with torch.device("meta"):
            net = SonicUNet(config_of(job["size"])).to(self.dtype)
        net = net.to_empty(device=self.device)
        if job.get("weights"):
            from safetensors.torch import load_file

            net.load_state_dict(load_file(job["weights"]))
        else:
            with torch.no_grad():
                for name, value in net.named_parameters():
                    value.fill_(1.0) if value.dim() == 1 and "norm" in name else value.normal_(0, 0.02)
        self.unet = net.eval().requires_grad_(False)
        if job.get("fp8"):
            self.notes.append(in_8_bits(self.unet, self.device))
        if job.get("compile"):
            compile_parts(self.unet)


# --- a window --------------------------------------------------------------------------------------------------------


def window(job: dict[str, Any]) -> dict[str, Any]:
    """`steps` steps of `windows` windows as the sampler takes them, after some that are not counted.

    Each step a turn of its own, all branches; with `pairs`, the second step of a turn as `fast` takes it.
    """
    device, windows = job["device"], job.get("windows", 1)
    nets, given = Nets(job), inputs(job, device, dtype_of(device))
    advance = Advance(
        cast(Sonic, nets), given["still"][0], given["clip"], given["mask"], (LEVEL, THEN, THEN * 0.8, 0), 3
    )
    turn: tuple[Move, ...] = CHEAP_TWO if job.get("pairs") else (Move(),)
    number = Window(0, tuple(range(len(given["latents"]))))
    batch = Batch(tuple(range(len(turn))), turn, (number,) * windows)
    sung = Sung(
        given["audio"].cpu()[None].repeat(windows, 1, 1, 1), given["silent"][0].cpu(), torch.full((windows, 2), 127.0)
    )
    x = given["latents"].float().cpu()[None].repeat(windows, 1, 1, 1, 1)
    first: dict[str, float] = {}
    with spent(first, device):
        found = advance(batch, x, sung)
    advance(batch, x, sung)
    peak(device, anew=True)
    cost: dict[str, float] = {}
    with spent(cost, device):
        for _ in range(job["steps"]):
            advance(batch, x, sung)
    result = {
        **cost,
        "steps": job["steps"] * windows * len(turn),
        "memory_gb": peak(device),
        "first_s": first["wall_s"],
    }
    if job.get("kept"):
        from safetensors.torch import load_file

        theirs = load_file(job["kept"])["velocity"]
        ours = (x[0] / (LEVEL**2 + 1) - found[1][0]) * math.sqrt(LEVEL**2 + 1) / LEVEL  # x0 back to the velocity
        result["difference"] = float((ours - theirs).abs().max() / theirs.std())
    return result


def counted(job: dict[str, Any]) -> dict[str, Any]:
    """FLOPs, calls of torch and the most memory of a window's step at full size, on the meta device, per kind of step.

    `exact`: all three branches; `guidance`: without "nothing"; `features`: all, from kept features; `both`.
    """
    given, dtype = inputs({**job, "size": "full"}, "meta", torch.float16), torch.float16
    with torch.device("meta"):
        net = SonicUNet(config_of("full")).to(dtype).eval()
    side = job["side"] // 8
    places = [(side >> level) ** 2 for level in range(4)]
    mask = MaskPyramid(tuple(torch.empty(1, count, 1, dtype=dtype, device="meta") for count in places))
    condition = Condition(given["still"][0], given["clip"], given["audio"][None], given["silent"][0])
    added, x = torch.empty(1, 3, device="meta"), given["latents"][None].float()
    every: tuple[Branch, ...] = ("nothing", "still", "voice")
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for name, branches in (("exact", every), ("guidance", every[1:])):
            hearing = work_of(lambda branches=branches: Group(branches, net, condition, added, mask, True))
            group = Group(branches, net, condition, added, mask, True)
            group.velocities(x, LEVEL, Move(branches, "keep"))
            whole = work_of(lambda group=group, branches=branches: group.velocities(x, LEVEL, Move(branches)))
            again = work_of(lambda group=group, branches=branches: group.velocities(x, LEVEL, Move(branches, "use")))
            found[name] = {key: round(value + hearing[key] * (key != "gb"), 4) for key, value in whole.items()}
            found["features" if name == "exact" else "both"] = again
    return found


# --- the tail --------------------------------------------------------------------------------------------------------


def decode(job: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's pieces of eight frames, and a picture between every two."""
    from vividcover.portrait.sonic.decode import Held
    from vividcover.portrait.sonic.decode import decode as decoded

    device, side = job["device"], job["side"] // 8
    vae, rife = random_vae(job["size"], device, dtype_of(device)), random_rife(job["size"], device)
    count = DECODE_CHUNK * job.get("chunks", 4)
    latents = Held(0.1 * torch.randn(count, 4, side, side))
    quick = bool(job.get("compile"))
    list(decoded(Held(latents.values[:DECODE_CHUNK]), vae, compile=quick))
    peak(device, anew=True)
    cost: dict[str, float] = {}
    with spent(cost, device):
        pictures = list(decoded(latents, vae, compile=quick))
    memory, pairs = peak(device), sum(len(piece) - 1 for piece in pictures)
    rife.between(pictures[0][:-1], pictures[0][1:])
    between: dict[str, float] = {}
    with spent(between, device):
        for piece in pictures:
            rife.between(piece[:-1], piece[1:])
    per = {"between_cpu_s": between["cpu_s"] / pairs, "between_wall_s": between["wall_s"] / pairs}
    return {"frames": count, "pairs": pairs, "memory_gb": memory, **cost, **per}


def random_rife(size: str, device: str) -> Any:
    from vividcover.portrait.sonic.rife import IFNet

    torch.manual_seed(0)
    return (IFNet() if size == "full" else IFNet(16)).to(device).eval().requires_grad_(False)


# --- a whole clip ----------------------------------------------------------------------------------------------------


class Voice:
    """Random tokens for so many frames, with pauses: what `sample` listens to."""

    def __init__(self, frames: int, size: str, pauses: Sequence[tuple[int, int]] = ()) -> None:
        self.frames, self.key = frames, f"random {frames}"
        self._random = torch.Generator().manual_seed(3)
        context = SIZES[size]["cross_attention_dim"]
        self._tokens = torch.randn(64, TOKENS[size], context, generator=self._random).half()
        self.silent_tokens = torch.randn(TOKENS[size], context, generator=self._random)
        self.activity = np.ones(frames, bool)
        for start, stop in pauses:
            self.activity[start:stop] = False

    def tokens_of(self, indices: Sequence[int], /) -> Tensor:
        return self._tokens[[index % 64 for index in indices]].float()

    def buckets_of(self, indices: Sequence[int], /) -> Tensor:
        return torch.full((len(indices), 2), 127.0)


def clip(job: dict[str, Any]) -> dict[str, Any]:
    """A clip of `frames` of the network with random weights, from tokens to pictures: seconds of each part."""
    from vividcover.portrait.sonic.tail import frames as shown

    device, size, side = job["device"], job["size"], job["side"]
    nets, given = Nets(job), inputs(job, device, torch.float32)
    vae, rife = random_vae(size, device, dtype_of(device)), random_rife(size, device)
    voice, look = Voice(job["frames"], size), Look(given["still"][0].cpu(), given["clip"].cpu(), given["mask"].cpu())
    few = 1 if job.get("compile") else 0  # so that there are few shapes to compile for
    options = SonicOptions(steps=job.get("count"), speedups=tuple(job.get("speedups", ())), seed=1, windows_at_once=few)
    quiet = Silent()
    with tempfile.TemporaryDirectory() as folder:
        sampling: dict[str, float] = {}
        if job.get("compile") or device.startswith("cuda"):  # what is slow once is not of the clip
            brief = Voice(26, size)
            sampled(cast(Sonic, nets), look, brief, options, Path(folder) / "brief", quiet).close()
        peak(device, anew=True)
        with spent(sampling, device):
            store = sampled(cast(Sonic, nets), look, voice, options, Path(folder) / "clip", quiet)
        showing: dict[str, float] = {}
        with store, spent(showing, device):
            count = sum(1 for _ in shown(store, vae, rife, 2 * voice.frames))
    return {
        "frames": count, "seconds": voice.frames / FPS, "side": side, "memory_gb": peak(device), "notes": quiet.notes,
        "sampling_s": sampling["wall_s"], "showing_s": showing["wall_s"], "cpu_s": sampling["cpu_s"] + showing["cpu_s"],
    }  # fmt: skip


# --- counting --------------------------------------------------------------------------------------------------------


def work_of(step: Callable[[], Any]) -> dict[str, Any]:
    """FLOPs (2 for a multiplication and addition), calls of torch that make something, GB of it alive at most."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter
    from torch.utils.flop_counter import FlopCounterMode

    class Watched(TorchDispatchMode):
        calls, now, most = 0, 0, 0

        def __init__(self) -> None:
            super().__init__()
            self.alive: dict[int, int] = {}

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            given = {x.untyped_storage()._cdata for x in tree_iter(args) if isinstance(x, Tensor)}
            made = [x.untyped_storage() for x in tree_iter(found) if isinstance(x, Tensor)]
            fresh = [store for store in made if store._cdata not in given]
            self.calls += 1 if fresh else 0
            for store in fresh:
                if store._cdata not in self.alive:
                    self.alive[store._cdata] = store.nbytes()
                    self.now += store.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(store, self.gone, store._cdata)
            return found

        def gone(self, key: int) -> None:
            self.now -= self.alive.pop(key)

    with FlopCounterMode(display=False) as flops:
        step()
    with Watched() as watched:
        step()
    return {
        "tflop": round(flops.get_total_flops() / 1e12, 4), "calls": watched.calls, "gb": round(watched.most / 1e9, 3)
    }  # fmt: skip


JOBS = {"window": window, "counted": counted, "decode": decode, "clip": clip}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):
        yield


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job.get("threads", 1))
    settle()
    with quiet():
        result = JOBS[job["kind"]](job)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
