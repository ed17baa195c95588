"""One job of bench/portrait.py in a process of its own: a window's step, what it counts, decoding, a whole clip; ours.

    python bench/measure_portrait.py JOB.json       the last line is the result

Weights and inputs of a window are the peer's, which reads the same; both are measured by `portrait_peer.spent`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from portrait_peer import FPS, SIZES, dtype_of, inputs, peak, settle, spent

from vividcover.portrait.sonic.config import UNetConfig
from vividcover.portrait.sonic.guidance import BRANCHES, Condition, Pushes, guided
from vividcover.portrait.sonic.network import Deep, MaskPyramid, SonicUNet
from vividcover.portrait.sonic.schedule import c_in, c_noise, step


def config_of(size: str) -> UNetConfig:
    given = SIZES[size]
    return UNetConfig(
        channels=given["block_out_channels"], heads=given["num_attention_heads"],
        context=given["cross_attention_dim"], added=given["addition_time_embed_dim"],
    )  # fmt: skip


def opened(job: dict[str, Any], device: str, dtype: torch.dtype) -> SonicUNet:
    """The network: of the peer's file, or of random weights where it is of full size."""
    with torch.device("meta"):
        net = SonicUNet(config_of(job["size"])).to(dtype)
    net = net.to("meta") if device == "meta" else net.to_empty(device=device)
    if job.get("weights"):
        from safetensors.torch import load_file

        net.load_state_dict(load_file(job["weights"]))
    elif device != "meta":
        with torch.no_grad():
            for name, value in net.named_parameters():
                value.fill_(1.0) if value.dim() == 1 and "norm" in name else value.normal_(0, 0.02)
    net = net.eval().requires_grad_(False)
    if device != "meta":
        net.lay_out()
    if job.get("fp8"):
        from vividcover.portrait.sonic.speed import quantise_linears

        quantise_linears(net)
    if job.get("compile"):
        from vividcover.portrait.sonic.speed import compile_parts

        compile_parts(net)
    return net


class Ours:
    """A network, and one step of one window, as the sampler does it."""

    def __init__(self, job: dict[str, Any], device: str, dtype: torch.dtype) -> None:
        self.net = opened(job, device, dtype)
        given = inputs(job, device, dtype)
        self.latents = given["latents"][None].float()
        self.condition = Condition(given["still"][0], given["clip"], given["audio"][None], given["silent"][0])
        self.dtype = dtype
        self.given = BRANCHES[:-1]  # `still` and `voice` share one x until the voice comes in
        self.added = torch.tensor([[FPS, 127.0, 127.0]] * len(self.given), device=device)
        if device == "meta":
            side = job["side"] // 8
            places = [(side >> level) ** 2 for level in range(4)]
            self.mask = MaskPyramid(tuple(torch.empty(1, count, 1, dtype=dtype, device="meta") for count in places))
        else:
            self.mask = MaskPyramid.of(given["mask"], dtype, device)
        self.stills = self.condition.stills(self.given)
        self.hear()

    def hear(self) -> None:
        self.context = self.net.hear(self.condition.clips(BRANCHES), self.condition.voices(BRANCHES))

    def velocity(self, x: Tensor, sigma: float, **more: Any) -> Tensor:
        """[1, F, 4, h, w] of three branches in one batch."""
        count = len(self.given)
        more["twins"] = len(BRANCHES) - count
        scaled = (x * c_in(sigma)).to(self.dtype).expand(count, -1, -1, -1, -1)
        noise = torch.full((count,), c_noise(sigma), device=x.device)
        found = self.net(torch.cat((scaled, self.stills), 2), noise, self.added, self.context, self.mask, **more)
        return guided(dict(zip(BRANCHES, found.float().split(1), strict=True)), Pushes())[0]

    def step(self, x: Tensor, now: float, then: float, **more: Any) -> Tensor:
        return step(x, self.velocity(x, now, **more), now, then)


# --- jobs ------------------------------------------------------------------------------------------------------------


def window(job: dict[str, Any]) -> dict[str, Any]:
    """`steps` steps of one window, after one that is not counted; with `pairs`, every second one from kept features."""
    device = job["device"]
    ours = Ours(job, device, dtype_of(device))
    levels = [20.0 * 0.8**i for i in range(job["steps"] + 1)]
    deep = Deep()
    first: dict[str, float] = {}
    with torch.inference_mode():
        with spent(first, device):
            velocity = ours.velocity(ours.latents, levels[0])
            if job.get("pairs"):
                ours.velocity(ours.latents, levels[0], keep=deep)
                ours.velocity(ours.latents, levels[0], deep=deep)
        peak(device, anew=True)
        x, cost = ours.latents, {}
        with spent(cost, device):
            ours.hear()  # once for all the window's steps in a turn; the peer does so in every layer of every step
            for number, (now, then) in enumerate(itertools.pairwise(levels)):
                how = {} if not job.get("pairs") else {"deep": deep} if number % 2 else {"keep": deep}
                x = ours.step(x, now, then, **how)
    found = {**cost, "steps": job["steps"], "memory_gb": peak(device), "first_s": first["wall_s"]}
    if job.get("kept"):
        from safetensors.torch import load_file

        theirs = load_file(job["kept"])["velocity"]
        found["difference"] = float((velocity[0].cpu() - theirs).abs().max() / theirs.std())
    return found


def counted(job: dict[str, Any]) -> dict[str, Any]:
    """FLOPs, calls of torch and the most memory of one window's step at full size, on the meta device.

    `what`: whole (three branches at once), again (from kept features), hear (keys and values of a window).
    """
    ours = Ours({**job, "size": job.get("size", "full")}, "meta", torch.float16)
    deep = Deep()
    ways: dict[str, Callable[[], Any]] = {
        "whole": lambda: ours.velocity(ours.latents, 20.0),
        "again": lambda: ours.velocity(ours.latents, 20.0, deep=deep),
        "hear": ours.hear,
    }
    with torch.inference_mode():
        ours.velocity(ours.latents, 20.0, keep=deep)
        return work_of(ways[job.get("what", "whole")])


def decode(job: dict[str, Any]) -> dict[str, Any]:
    """The tail: the autoencoder's pieces of eight frames, and a picture between every two; milliseconds a frame."""
    from vividcover.portrait.sonic.config import DECODE_CHUNK
    from vividcover.portrait.sonic.decode import Held
    from vividcover.portrait.sonic.decode import decode as decoded
    from vividcover.portrait.sonic.rife import IFNet

    device, side, dtype = job["device"], job["side"] // 8, dtype_of(job["device"])
    vae = random_vae(job["size"], device, dtype)
    rife = IFNet(**({} if job["size"] == "full" else {"width": 16})).to(device).eval()
    count = DECODE_CHUNK * job.get("chunks", 4)
    latents = Held(torch.randn(count, 4, side, side))
    with torch.inference_mode():
        for _ in decoded(Held(latents.values[:DECODE_CHUNK]), vae):
            pass
        peak(device, anew=True)
        cost: dict[str, float] = {}
        with spent(cost, device):
            pictures = list(decoded(latents, vae))
        memory = peak(device)
        piece = pictures[0].float()
        rife.between(piece[:-1], piece[1:])
        between: dict[str, float] = {}
        with spent(between, device):
            for piece in pictures:
                rife.between(piece[:-1].float(), piece[1:].float())
    pairs = sum(len(piece) - 1 for piece in pictures)
    return {
        "frames": count, "pairs": pairs, "memory_gb": memory, **cost, "between_cpu_s": between["cpu_s"],
        "between_wall_s": between["wall_s"],
    }  # fmt: skip


def random_vae(size: str, device: str, dtype: torch.dtype) -> Any:
    """SVD's autoencoder with random weights; narrow where the size is not `full`."""
    from diffusers import AutoencoderKLTemporalDecoder

    wide = (128, 256, 512, 512) if size == "full" else (32, 32, 64, 64)
    kinds = ("DownEncoderBlock2D",) * 4
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=kinds, block_out_channels=wide, layers_per_block=2, latent_channels=4, sample_size=768
        )
    return vae.to(dtype).eval().requires_grad_(False)


def clip(job: dict[str, Any]) -> dict[str, Any]:
    """A whole clip with random weights, from the vocals' tokens to the last picture: seconds of each part."""
    from clip_portrait import measured

    return measured(job)


# --- counting --------------------------------------------------------------------------------------------------------


def work_of(step: Callable[[], Any]) -> dict[str, Any]:
    """FLOPs (2 for a multiplication and addition), calls of torch without views, GB that are alive at most."""
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
