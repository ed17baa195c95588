"""One job of bench/image.py in a process of its own: training steps, gradients, sampling, files, counted work; ours.

    python bench/measure_image.py JOB.json       the last line is the result

What the jobs read (weights, latents, embeddings, a LoRA) was written by the peer, which reads it too; both are measured
by `flux_peer.spent`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from flux_peer import SIZES, peak, settle, spent

from vividcover.image.flux import optimizers
from vividcover.image.flux.checkpoint import read_flux
from vividcover.image.flux.config import FluxConfig, from_published, targets
from vividcover.image.flux.data import Item, Store, TrainingSet
from vividcover.image.flux.loop import Course, learn
from vividcover.image.flux.lora import Adapter, attach
from vividcover.image.flux.network import Flux
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import fit
from vividcover.image.flux.quant import quantise
from vividcover.workspace import Silent


def config_of(size: str) -> FluxConfig:
    return from_published({"in_channels": 64, "guidance_embeds": True, **SIZES[size]})


def dtype_of(device: torch.device) -> torch.dtype:
    """What FLUX is computed in: the peer takes the same."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def opened(job: dict[str, Any], device: torch.device) -> Flux:
    """The network: of the peer's file, or of random weights where it is of full size."""
    dtype = dtype_of(device)
    if job["size"] != "full":
        net = read_flux(Path(job["folder"]) / "transformer", device=device, dtype=dtype)
    else:
        with torch.device("meta"):
            net = Flux(config_of("full")).to(dtype)
        net = net.to_empty(device=device).eval().requires_grad_(False)
        for name, value in net.named_parameters():
            value.fill_(1.0) if name.endswith("norm.weight") else value.normal_(0, 0.02)
    quantise(net, job.get("quantise", "none"), training=job["kind"] != "generate")
    return net


def compiled(network: Flux) -> None:
    for block in (*network.double_blocks, *network.single_blocks):
        block.compile(dynamic=False)


def lessons(job: dict[str, Any]) -> TrainingSet:
    """The peer's cached pictures and text."""
    from safetensors.torch import load_file

    data = load_file(Path(job["folder"]) / "data.safetensors")
    store, items = Store(), []
    text = {"tokens": data[f"tokens_{job['text']}"], "pooled": data["pooled"]}
    for number in (0, 1):
        store.put(f"text_{number:05d}", text)
    for key in sorted((key for key in data if key.startswith("latent_")), key=lambda key: int(key[7:])):
        latent, number = data[key], len(items)
        store.put(f"item_{number:05d}", {"latent": latent})
        side = latent.shape[1] * 8
        items.append(Item(f"photo{number}", 1, side, side, side))
    return TrainingSet(items, ["", "a photo of TOK"], store)


class Counted:
    """A trainee whose steps `warm` to `warm + steps` are measured, from the end of one step to the end of another."""

    def __init__(self, network: Flux, adapter: Adapter, warm: int, steps: int, device: torch.device) -> None:
        self.network, self.adapter, self.where = network, adapter, device
        self.stops, self.cost, self.done, self.span = (warm, warm + steps), {}, 0, contextlib.ExitStack()

    def named(self) -> dict[str, Tensor]:
        return dict(self.adapter.named())

    def optimizer(self, options: TrainOptions) -> Any:
        found, note = optimizers.make(options.optimizer, self.adapter.parameters(), options.learning_rate)
        found.register_step_post_hook(lambda *_: self._stepped())
        return found, note

    def write(self, path: Path) -> Path:
        path.touch()
        return path

    def _stepped(self) -> None:
        self.done += 1
        if self.done == self.stops[0]:
            peak(str(self.where), anew=True)
            self.span.enter_context(spent(self.cost, str(self.where)))
        elif self.done == self.stops[1]:
            self.span.close()


def train(job: dict[str, Any]) -> dict[str, Any]:
    """`steps` steps of the real loop after `warm`: the cost of these alone, and of what came before them."""
    device = torch.device(job["device"])
    options = TrainOptions(
        steps=job["warm"] + job["steps"], resolution=",".join(str(side) for side in sorted(set(job["sides"]))),
        text_length=job["text"], optimizer="adamw", caption_dropout=0.0, save_every=100_000, state_seconds=1e9, seed=1,
    )  # fmt: skip
    begun: dict[str, float] = {}
    with spent(begun, job["device"]):
        network, config = opened(job, device), config_of(job["size"])
        network.requires_grad_(False)
        adapter = attach(network, config, rank=options.rank, alpha=float(options.rank), pattern=None, seed=1)
        if job.get("compile"):
            compiled(network)
    trainee = Counted(network, adapter, job["warm"], job["steps"], device)
    learnt_from = lessons(job)
    everything = range(len(learnt_from.items))
    plan = fit(0.0, config, options)  # nothing is spared
    whole: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, spent(whole, job["device"]):
        course = Course(
            "bench", trainee, learnt_from, everything, everything, Path(folder), options, plan, device, dtype_of(device)
        )
        learnt = learn(course, Silent())
    assert all(row.get("loss", 0.0) == row.get("loss", 0.0) for row in learnt.history)
    cost = trainee.cost
    warm_s = whole["wall_s"] - cost["wall_s"]
    return {
        **cost, "steps": job["steps"], "memory_gb": peak(job["device"]), "opening_s": begun["wall_s"], "warm_s": warm_s,
        "parameters": sum(w.numel() for w in trainee.named().values()),
    }  # fmt: skip


def gradients(job: dict[str, Any]) -> dict[str, Any]:
    """Loss and gradients at the peer's weights, LoRA, noise and level, beside its own."""
    from safetensors.torch import load_file

    from vividcover.image.flux.data import Batch
    from vividcover.image.flux.lorafile import read_lora
    from vividcover.image.flux.objective import Objective

    folder, device = Path(job["folder"]), torch.device(job["device"])
    network, config = opened(job, device), config_of(job["size"])
    network.requires_grad_(False)
    lora = read_lora(folder / "lora.safetensors", config)
    adapter = attach(network, config, rank=lora.rank, alpha=float(lora.rank), pattern=None, seed=1)
    adapter.load(lora)
    theirs = load_file(folder / "gradients.safetensors")
    data = load_file(folder / "data.safetensors")
    given = (
        data["latent_0"][None], theirs["noise"][None], theirs["sigma"], data[f"tokens_{job['text']}"][None],
        data["pooled"][None],
    )  # fmt: skip
    batch = Batch(*(value.to(device) for value in given), None)
    loss = Objective(network, 1.0, device, dtype_of(device)).losses(batch).mean()
    loss.backward()
    with torch.no_grad():  # as a LoRA, gradients go back to the names of single layers as weights do
        for weight in dict(adapter.named()).values():
            weight.copy_(weight.grad)
    ours = {}
    for name, pair in adapter.to_lora().pairs.items():
        ours |= {f"transformer.{name}.lora_A.weight": pair.a, f"transformer.{name}.lora_B.weight": pair.b}
    return {"loss": loss.item(), **compared(ours, theirs)}


def compared(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Cosine over all gradients together, and of the layer where it is least."""
    assert ours.keys() <= theirs.keys() and len(ours) + 2 == len(theirs)
    pairs = [(ours[key].double().flatten().cpu(), theirs[key].double().flatten()) for key in sorted(ours)]
    least = min(float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in pairs)
    a, b = (torch.cat(side) for side in zip(*pairs))
    return {"cosine": float(a @ b / (a.norm() * b.norm())), "least_cosine": least}


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """The sampling loop of a picture with a LoRA, in the weights unless these are quantised, from noise to latents."""
    from vividcover.image.flux.latents import pack, positions
    from vividcover.image.flux.lora import Wearing, wear
    from vividcover.image.flux.schedule import levels

    device, config = torch.device(job["device"]), config_of(job["size"])
    network, given = opened(job, device), lessons(job)
    adapter = attach(network, config, rank=16, alpha=16.0, pattern=None, seed=1)
    with torch.no_grad():
        for weight in dict(adapter.named()).values():
            weight.normal_(0, 0.02)
    lora = adapter.to_lora()
    adapter.detach()
    merged = job.get("merged", True) and job.get("quantise", "none") == "none"
    wear(network, config, [Wearing(lora, 1.0, None)], merged=merged)
    if job.get("compile"):
        compiled(network)
    text = given.text(1)
    dtype = network.img_in.weight.dtype
    tokens, pooled = (t[None].to(device, dtype) for t in text)
    h, w = given.items[0].shape
    rope = network.rotary(positions(h, w, tokens.shape[1], device))
    guidance = torch.full((1,), 3.5, device=device)

    def run() -> None:
        with torch.inference_mode():
            x = pack(torch.randn(1, 16, h, w)).to(device)
            for now, then in itertools.pairwise(levels(job["steps"], x.shape[1]).to(device)):
                said = network(x.to(dtype), tokens, pooled, now[None], guidance, rope=rope)
                x = x + (then - now) * said.float()

    first: dict[str, float] = {}
    with spent(first, job["device"]):
        run()
    peak(job["device"], anew=True)
    cost: dict[str, float] = {}
    with spent(cost, job["device"]):
        run()
    return {**cost, "steps": job["steps"], "memory_gb": peak(job["device"]), "first_s": first["wall_s"]}


def files(job: dict[str, Any]) -> dict[str, Any]:
    """Writes and reads a LoRA of FLUX's real size in every format; what comes back must be what was written."""
    from vividcover.image.flux.config import DEV, block_targets
    from vividcover.image.flux.lorafile import Lora, Pair, read_lora, write_lora

    sizes, random = targets(DEV), torch.Generator().manual_seed(5)
    draw = torch.randn(1 << 20, generator=random).half()
    pairs = {}
    for number, name in enumerate(block_targets(DEV)):  # each begins elsewhere: no two are the same
        target = sizes[name]
        a = draw[number : number + 16 * target.inputs].view(16, -1)
        b = draw[-16 * target.outputs - number - 1 : -number - 1].view(-1, 16)
        pairs[name] = Pair(a, b, 16.0)
    lora, rows = Lora(pairs), {}
    for kind in ("diffusers", "kohya", "bfl"):
        path = Path(job["folder"]) / f"{kind}.safetensors"
        writing: dict[str, float] = {}
        reading: dict[str, float] = {}
        with spent(writing, "cpu"):
            write_lora(path, lora, kind, dtype="fp16")
        with spent(reading, "cpu"):
            again = read_lora(path)
        wrong = max(
            float((again.pairs[n].b.float() * again.pairs[n].scale - p.b.float() * p.scale).abs().max())
            for n, p in pairs.items()
        )
        size = round(path.stat().st_size / 1e6, 1)
        rows[kind] = {
            "mb": size,
            "write_cpu_s": writing["cpu_s"],
            "read_cpu_s": reading["cpu_s"],
            "largest_error": wrong,
        }
        path.unlink()
    return rows


def counted(job: dict[str, Any]) -> dict[str, Any]:
    """Operations of a forward and backward pass at full size, without any weights: FLOPs, and calls of torch."""
    from vividcover.image.flux.latents import positions

    config, h = config_of("full"), job["side"] // 8
    with torch.device("meta"):
        net = Flux(config).to(torch.bfloat16)
        tokens = torch.empty(1, job["text"], config.text_width, dtype=torch.bfloat16)
        pooled = torch.empty(1, config.pooled_width, dtype=torch.bfloat16)
        x, one = torch.empty(1, (h // 2) ** 2, 64, dtype=torch.bfloat16), torch.empty(1)
    net.requires_grad_(False)
    if job["lora"]:
        attach(net, config, rank=16, alpha=16.0, pattern=None, seed=1)
    rope = net.rotary(positions(h, h, job["text"]).to("meta"))

    def step() -> None:
        said = net(x, tokens, pooled, one, one, rope=rope)
        if job["lora"]:
            said.float().square().mean().backward()

    with torch.set_grad_enabled(bool(job["lora"])):
        return work_of(step)


def work_of(step: Any) -> dict[str, Any]:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            views = any(
                word in str(function) for word in ("view", "transpose", "slice", "detach", "permute", "t.default")
            )
            self.count += 0 if views else 1
            return function(*args, **(kwargs or {}))

    with FlopCounterMode(display=False) as flops:
        step()
    with Calls() as calls:
        step()
    return {"tflop": round(flops.get_total_flops() / 1e12, 3), "calls": calls.count}


JOBS = {
    "train": train, "gradients": gradients, "generate": generate, "files": files, "counted": counted
}  # fmt: skip


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
