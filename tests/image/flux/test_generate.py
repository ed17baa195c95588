"""Pictures by our own network and sampler are those of stock diffusers for the same seed, in every mode."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vividcover.errors import Canceled, EngineError, ImageError, ParameterError
from vividcover.image.flux.canny import edges
from vividcover.image.flux.config import block_targets, targets
from vividcover.image.flux.control import region
from vividcover.image.flux.generate import Painter, first_size
from vividcover.image.flux.lora import Wearing
from vividcover.image.flux.lorafile import Lora, Pair, write_lora
from vividcover.image.flux.opening import base_files, open_base
from vividcover.image.flux.request import Request, Rgb
from vividcover.image.flux.safety import Guard, Verdict
from vividcover.workspace import Silent

sys.path.insert(0, str(Path(__file__).parents[2]))
from flux_making import tiny_flux_folder

CPU = torch.device("cpu")
SAME = 1e-5  # of 0..1
PROMPT = "a photo of TOK on stage"
PHOTO = np.asarray(Image.fromarray(np.random.default_rng(5).integers(0, 256, (9, 7, 3), np.uint8)).resize((96, 80)))
MASK = np.zeros((80, 96), np.uint8)
MASK[20:60, 30:80] = 255
SHAPES: dict[str, tuple[bool, int]] = {
    "dev": (True, 64), "schnell": (False, 64), "fill": (True, 384), "canny": (True, 128), "depth": (True, 128),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Shelf:
    """Weights as a user has them who gives whole folders."""

    def __init__(self, **folders: Path) -> None:
        self.folders = {name.replace("_", "-"): folder for name, folder in folders.items()}

    def path(self, name: str) -> Path:
        return self.folders[name]

    def has(self, name: str) -> bool:
        return name in self.folders


@functools.cache
def folder(kind: str) -> Path:
    return tiny_flux_folder(*SHAPES[kind])


def painter(kind: str = "dev", **more: Any) -> Painter:
    files = base_files(kind, Shelf(**{f"flux_{kind}": folder(kind)}))
    return Painter(open_base(files, device=CPU, dtype=torch.float32), **more)


@functools.cache
def stock(name: str, kind: str) -> Any:
    """A stock pipeline over the same tiny nets."""
    import diffusers

    made = getattr(diffusers, name).from_pretrained(str(folder(kind)))
    made.set_progress_bar_config(disable=True)
    return made


def theirs(name: str, kind: str, seed: int, **values: Any) -> np.ndarray:
    """[H,W,3] in 0..1 by stock diffusers."""
    given = {"prompt": PROMPT, "width": 96, "height": 80, "output_type": "np", "generator": torch.manual_seed(seed)}
    with torch.no_grad():
        return np.asarray(stock(name, kind)(**(given | values)).images[0])


def ours(painter: Painter, request: Request) -> list[np.ndarray]:
    """What the autoencoder gave, in 0..1, before it became bytes."""
    seen: list[np.ndarray] = []
    decode = painter.base.decode

    def noting(latents: torch.Tensor) -> torch.Tensor:
        pixels = decode(latents)
        seen.append((pixels[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy())
        return pixels

    painter.base.decode = noting  # type: ignore[method-assign]
    try:
        pictures = painter.paint(request)
    finally:
        painter.base.decode = decode  # type: ignore[method-assign]
    for picture, pixels in zip(pictures, seen, strict=True):
        if request.mask is None:
            assert (picture.rgb == (pixels * 255).round()).all()
    return seen


def ask(**values: Any) -> Request:
    given = {"prompt": PROMPT, "width": 96, "height": 80, "seed": 7, "steps": 3, "checked": False}
    return Request(**(given | values))


def same(found: np.ndarray, expected: np.ndarray, within: float = SAME) -> None:
    assert found.shape == expected.shape
    assert found.std() > 0.01
    assert abs(found - expected).max() < within


# each mode beside its stock pipeline -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_words_give_dev_the_picture_of_stock_diffusers(seed: int) -> None:
    found = ours(painter(), ask(seed=seed, guidance=3.5))[0]
    same(found, theirs("FluxPipeline", "dev", seed, num_inference_steps=3, guidance_scale=3.5))


def test_words_give_schnell_the_picture_of_stock_diffusers() -> None:
    found = ours(painter("schnell"), ask(steps=None))[0]
    expected = theirs(
        "FluxPipeline", "schnell", 7, num_inference_steps=4, guidance_scale=0.0, max_sequence_length=256
    )  # fmt: skip
    same(found, expected)


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_a_picture_is_changed_as_stock_diffusers_changes_it(strength: float) -> None:
    found = ours(painter(), ask(image=PHOTO, prompt_strength=strength, steps=5))[0]
    same(found, theirs(
        "FluxImg2ImgPipeline", "dev", 7, image=Image.fromarray(PHOTO), strength=strength, num_inference_steps=5,
        guidance_scale=3.5,
    ))  # fmt: skip


def test_a_picture_of_another_size_is_resized_as_stock_diffusers_does() -> None:
    large = np.asarray(Image.fromarray(PHOTO).resize((133, 71)))
    found = ours(painter(), ask(image=large))[0]
    same(found, theirs(
        "FluxImg2ImgPipeline", "dev", 7, image=Image.fromarray(large), strength=0.8, num_inference_steps=3,
        guidance_scale=3.5,
    ))  # fmt: skip


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_mask_is_filled_as_stock_diffusers_fills_it(strength: float) -> None:
    found = ours(painter(), ask(image=PHOTO, mask=MASK, prompt_strength=strength, steps=5))[0]
    same(found, theirs(
        "FluxInpaintPipeline", "dev", 7, image=Image.fromarray(PHOTO), mask_image=Image.fromarray(MASK),
        strength=strength, num_inference_steps=5, guidance_scale=3.5,
    ))  # fmt: skip


def test_fill_is_that_of_stock_diffusers() -> None:
    found = ours(painter("fill"), ask(image=PHOTO, mask=MASK, guidance=30.0))[0]
    same(found, theirs(
        "FluxFillPipeline", "fill", 7, image=Image.fromarray(PHOTO), mask_image=Image.fromarray(MASK),
        num_inference_steps=3, guidance_scale=30.0,
    ))  # fmt: skip


def test_edges_are_followed_as_in_stock_diffusers() -> None:
    found = ours(painter("canny"), ask(control=PHOTO, guidance=30.0))[0]
    same(found, theirs(
        "FluxControlPipeline", "canny", 7, control_image=Image.fromarray(edges(PHOTO)), num_inference_steps=3,
        guidance_scale=30.0,
    ))  # fmt: skip


class Sees:
    """Depth, or a picture's tokens, of a fixed kind."""

    released = False

    def release(self) -> None:
        self.released = True

    def of(self, rgb: Rgb) -> Rgb:
        return np.ascontiguousarray(rgb[::-1])

    def tokens(self, rgb: Rgb, strength: float = 1.0) -> torch.Tensor:
        return torch.linspace(-1, 1, 9 * 32).view(1, 9, 32) * strength


def test_depth_is_followed_as_in_stock_diffusers() -> None:
    found = ours(painter("depth", depth=Sees()), ask(control=PHOTO, guidance=10.0))[0]
    expected = theirs(
        "FluxControlPipeline", "depth", 7, control_image=Image.fromarray(PHOTO[::-1]), num_inference_steps=3,
        guidance_scale=10.0,
    )  # fmt: skip
    same(found, expected)
    given = ours(painter("depth"), ask(control=PHOTO[::-1].copy(), preprocessed=True, guidance=10.0))[0]
    same(given, expected)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_picture_as_part_of_the_prompt_stands_behind_the_words(strength: float) -> None:
    found = ours(painter(redux=Sees()), ask(redux=PHOTO, redux_strength=strength))[0]
    pipeline = stock("FluxPipeline", "dev")
    with torch.no_grad():
        tokens, pooled, _ = pipeline.encode_prompt(PROMPT, None, max_sequence_length=512)
    both = torch.cat([tokens, Sees().tokens(PHOTO, strength)], dim=1)
    same(found, theirs(
        "FluxPipeline", "dev", 7, prompt=None, prompt_embeds=both, pooled_prompt_embeds=pooled, num_inference_steps=3,
        guidance_scale=3.5,
    ))  # fmt: skip
    plain = ours(painter(), ask())[0]
    assert abs(found - plain).max() > SAME
    assert (ours(painter(redux=Sees()), ask(redux=PHOTO, redux_strength=0.0))[0] == plain).all()


# seeds, sizes, masks -----------------------------------------------------------------------------------------------


def test_several_pictures_have_seeds_that_count_up_and_stand_alone() -> None:
    paint = painter()
    three = paint.paint(ask(count=3))
    assert [picture.seed for picture in three] == [7, 8, 9]
    assert (three[2].rgb == paint.paint(ask(seed=9))[0].rgb).all()
    assert (three[0].rgb != three[1].rgb).any()
    assert (three[0].rgb == paint.paint(ask(count=1))[0].rgb).all()
    together = stock("FluxPipeline", "dev")(
        PROMPT, width=96, height=80, num_inference_steps=3, guidance_scale=3.5, output_type="np",
        num_images_per_prompt=2, generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
    ).images  # fmt: skip
    for picture, expected in zip(three, together, strict=False):
        assert abs(picture.rgb - expected * 255).max() <= 0.51


def test_what_the_mask_leaves_is_kept_pixel_for_pixel() -> None:
    large = np.asarray(Image.fromarray(PHOTO).resize((150, 130)))
    mask = np.asarray(Image.fromarray(MASK).resize((150, 130)))
    for kind in ("dev", "fill"):
        rgb = painter(kind).paint(ask(image=large, mask=mask))[0].rgb
        assert rgb.shape == large.shape
        assert (rgb[mask < 128] == large[mask < 128]).all()
        assert (rgb[mask >= 128] != large[mask >= 128]).mean() > 0.8
    plain = painter().paint(ask(image=large, mask=mask, keep=False))[0].rgb
    assert plain.shape == (80, 96, 3)


def test_a_mask_that_is_white_throughout_paints_everything() -> None:
    white = np.full((80, 96), 255, np.uint8)
    found = painter().paint(ask(image=PHOTO, mask=white, prompt_strength=1.0))[0].rgb
    loose = painter().paint(ask(image=PHOTO, mask=white, prompt_strength=1.0, keep=False))[0].rgb
    assert (found == loose).all()


def test_a_strength_that_leaves_no_step_still_paints_one_and_says_so() -> None:
    reporter = Silent()
    found = painter().paint(ask(image=PHOTO, prompt_strength=0.0), reporter)[0].rgb
    assert found.shape == (80, 96, 3)
    assert "one is painted" in reporter.notes[0]


def test_a_large_picture_is_painted_small_and_then_painted_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from vividcover.image.flux import generate

    assert first_size(2048, 2048) == (1024, 1024)
    assert first_size(3136, 1344) == (1568, 672)
    monkeypatch.setattr(generate, "ONE_PASS", 96 * 80 - 1)
    monkeypatch.setattr(generate, "FIRST_PASS", 48 * 48)
    paint, reporter = painter(), Silent()
    twice = paint.paint(ask(steps=5), reporter)[0].rgb
    draft = paint.paint(ask(width=48, height=48, steps=5))[0].rgb
    over = paint.paint(ask(image=draft, prompt_strength=0.4, steps=5))[0].rgb
    assert (twice == over).all()
    assert "48 x 48" in reporter.notes[0]
    same(ours(paint, ask(second_pass=0.0))[0], theirs(
        "FluxPipeline", "dev", 7, num_inference_steps=3, guidance_scale=3.5,
    ))  # fmt: skip


def test_schnell_paints_with_a_lora_and_says_that_it_takes_no_guidance() -> None:
    reporter = Silent()
    painter("schnell").paint(ask(guidance=3.5), reporter)
    assert "guidance 3.5 is not used" in reporter.notes[0]


# what comes out, and what does not ---------------------------------------------------------------------------------


class Verdicts(Guard):
    """A guard that holds back the pictures whose numbers are given."""

    def __init__(self, *back: int) -> None:
        self.back, self.asked = set(back), []  # type: tuple[set[int], list[int]]

    def ready(self) -> None: ...

    def look(self, pictures: Any, tolerance: int = 2) -> list[Verdict]:
        self.asked.append(tolerance)
        why = "held back by a test"
        return [Verdict(i not in self.back, {}, why if i in self.back else "") for i in range(len(pictures))]


def test_a_picture_that_is_held_back_is_replaced() -> None:
    guard = Verdicts(1)
    paint = painter(guard=guard)
    shown, hidden = paint.paint(ask(count=2, checked=True, tolerance=5))
    assert (shown.safe, hidden.safe) == (True, False)
    assert (hidden.rgb == 128).all()
    assert hidden.why == "held back by a test"
    assert guard.asked == [5]
    assert (shown.rgb == paint.paint(ask())[0].rgb).all()


def test_when_every_picture_is_held_back_there_is_an_error() -> None:
    with pytest.raises(ImageError, match="All 2 pictures were held back"):
        painter(guard=Verdicts(0, 1)).paint(ask(count=2, checked=True))


def test_without_a_checker_nothing_is_painted_unless_that_is_asked_for() -> None:
    paint = painter()
    paint.base.encode_text = None  # type: ignore[assignment]  # whoever gets here fails
    with pytest.raises(EngineError, match="no safety checker"):
        paint.paint(ask(checked=True))


def test_a_broken_checker_is_found_before_anything_is_painted() -> None:
    class Broken(Verdicts):
        def ready(self) -> None:
            raise EngineError("the checker is broken")

    paint = painter(guard=Broken())
    paint.base.encode_text = None  # type: ignore[assignment]
    with pytest.raises(EngineError, match="broken"):
        paint.paint(ask(checked=True))


@pytest.mark.parametrize(
    ("kind", "values", "names"), [("dev", {"redux": PHOTO}, "Redux"), ("depth", {"control": PHOTO}, "depth")]
)
def test_a_net_that_is_not_there_is_named_before_anything_is_painted(
    kind: str, values: dict[str, Any], names: str
) -> None:
    with pytest.raises(EngineError, match=names):
        painter(kind).paint(ask(**values))


def test_painting_is_canceled_between_two_steps() -> None:
    class Stops(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def progress(self, fraction: float, text: str = "") -> None:
            self.said.append(text)
            if "step 2" in text:
                raise Canceled

    reporter = Stops()
    with pytest.raises(Canceled):
        painter().paint(ask(steps=50, count=2), reporter)
    assert reporter.said[-1] == "step 2 of 50"


def test_a_step_that_takes_long_is_canceled_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stops(Silent):
        until = float("inf")

        def check(self) -> None:
            if time.monotonic() > self.until:
                raise Canceled

    paint, reporter, over = painter(), Stops(), threading.Event()
    forward = paint.base.flux.forward

    def slow(*values: Any, **named: Any) -> torch.Tensor:
        reporter.until = time.monotonic() + 0.1
        over.wait(30)
        return forward(*values, **named)

    monkeypatch.setattr(paint.base.flux, "forward", slow)
    began = time.monotonic()
    with pytest.raises(Canceled):
        paint.paint(ask(loras=(Wearing(random_lora(1)),)), reporter)
    assert time.monotonic() - began < 5
    over.set()
    monkeypatch.setattr(paint.base.flux, "forward", forward)
    assert (paint.paint(ask())[0].rgb == painter().paint(ask())[0].rgb).all()  # the LoRA is off


def test_progress_never_goes_back() -> None:
    class Notes(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def progress(self, fraction: float, text: str = "") -> None:
            self.seen.append(fraction)

    reporter = Notes()
    painter().paint(ask(count=2), reporter)
    assert reporter.seen == sorted(reporter.seen)
    assert 0.5 < reporter.seen[-1] <= 1


def test_no_numbers_are_no_picture() -> None:
    paint = painter()
    with torch.no_grad():
        paint.base.flux.final_out.bias.fill_(float("nan"))
    with pytest.raises(EngineError, match="no numbers"):
        paint.paint(ask())


def test_memory_that_does_not_suffice_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    paint = painter()

    def full(*values: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(paint.base, "decode", full)
    with pytest.raises(EngineError, match="96 x 80") as caught:
        paint.paint(ask())
    assert "go_fast" in caught.value.hint


def test_a_prompts_words_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paint, asked = painter(), []
    encode = paint.base.encode_text
    monkeypatch.setattr(paint.base, "encode_text", lambda *a: asked.append(a) or encode(*a))
    for _ in range(2):
        paint.paint(ask())
    paint.paint(ask(prompt="another"))
    assert len(asked) == 2


def test_the_end_of_a_prompt_that_does_not_fit_is_named() -> None:
    reporter, paint = Silent(), painter()
    paint.paint(ask(prompt="a photo of TOK on stage at night", text_length=6), reporter)
    assert reporter.notes == ["the prompt is longer than 6 tokens of text; left out at its end: stage at night"]
    paint.paint(ask(prompt="a photo of TOK on stage at night", text_length=6), reporter)
    paint.paint(ask(prompt="a photo of TOK on stage at night", text_length=16), reporter)
    assert len(reporter.notes) == 2


def test_a_lean_painter_frees_what_read_the_prompt() -> None:
    sees = Sees()
    paint = painter(lean=True, redux=sees)
    paint.paint(ask(redux=PHOTO))
    assert "text" not in paint.base.loaded()
    assert sees.released


@pytest.mark.parametrize(("quantise", "near"), [("fp8", 0.02), ("int8", 0.01), ("nf4", 0.05)])
def test_a_base_in_fewer_bits_paints_nearly_the_same(quantise: Any, near: float) -> None:
    files = base_files("dev", Shelf(flux_dev=folder("dev")))
    small = Painter(open_base(files, dtype=torch.float32, quantise=quantise, training=False))
    worn = (Wearing(random_lora(1), 0.5),)
    exact, rough = ours(painter(), ask(loras=worn))[0], ours(small, ask(loras=worn))[0]
    assert 0 < abs(rough - exact).mean() < near


def test_half_precision_paints_nearly_the_same() -> None:
    files = base_files("dev", Shelf(flux_dev=folder("dev")))
    half = Painter(open_base(files, dtype=torch.bfloat16))
    assert 0 < abs(ours(half, ask())[0] - ours(painter(), ask())[0]).mean() < 0.02


# the block cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.5])
def test_the_block_cache_is_that_of_diffusers(threshold: float) -> None:
    import diffusers
    from diffusers.hooks import FirstBlockCacheConfig

    pipeline = diffusers.FluxPipeline.from_pretrained(str(folder("dev")))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    expected = pipeline(
        PROMPT, width=96, height=80, num_inference_steps=12, guidance_scale=3.5, output_type="np",
        generator=torch.manual_seed(7),
    ).images[0]  # fmt: skip
    same(ours(painter(), ask(steps=12, block_cache=threshold))[0], expected)


def test_the_block_cache_saves_steps_and_says_how_many() -> None:
    reporter, paint = Silent(), painter()
    plain = paint.paint(ask(steps=12))[0].rgb.astype(int)
    cached = paint.paint(ask(steps=12, block_cache=0.5), reporter)[0].rgb.astype(int)
    saved = int(reporter.notes[0].split()[0])
    assert 2 <= saved <= 10
    assert 0 < abs(cached - plain).mean() < 0.1 * plain.std()
    assert (paint.paint(ask(steps=12, block_cache=1e-9))[0].rgb == plain).all()


# LoRAs -------------------------------------------------------------------------------------------------------------


def random_lora(seed: int, rank: int = 4, kind: str = "dev") -> Lora:
    """One that changes every layer of the blocks, strongly enough to be seen."""
    config = painter(kind).base.config
    known, draw = targets(config), torch.Generator().manual_seed(seed)
    return Lora({
        name: Pair(
            torch.randn(rank, known[name].inputs, generator=draw) * 0.3,
            torch.randn(known[name].outputs, rank, generator=draw) * 0.3, float(rank),
        )
        for name in block_targets(config)
    })  # fmt: skip


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_loras_with_weights_are_those_of_stock_diffusers(tmp_path: Path) -> None:
    import diffusers

    pipeline = diffusers.FluxPipeline.from_pretrained(str(folder("dev")))
    pipeline.set_progress_bar_config(disable=True)
    loras = [random_lora(1), random_lora(2, rank=2)]
    for i, lora in enumerate(loras):
        write_lora(tmp_path / f"{i}.safetensors", lora, dtype="fp32", config=painter().base.config)
        pipeline.load_lora_weights(str(tmp_path / f"{i}.safetensors"), adapter_name=str(i))
    pipeline.set_adapters(["0", "1"], [0.8, -0.5])
    expected = pipeline(
        PROMPT, width=96, height=80, num_inference_steps=3, guidance_scale=3.5, output_type="np",
        generator=torch.manual_seed(7),
    ).images[0]  # fmt: skip
    worn = (Wearing(loras[0], 0.8), Wearing(loras[1], -0.5))
    paint = painter()
    plain = ours(paint, ask())[0]
    same(ours(paint, ask(loras=worn))[0], expected)
    same(ours(paint, ask(loras=worn, merged=True))[0], expected)
    assert abs(plain - expected).max() > 0.01
    assert (ours(paint, ask())[0] == plain).all()  # and then they are off again


def test_a_lora_in_its_region() -> None:
    paint, lora = painter(), random_lora(3)
    left = np.zeros((80, 96), np.uint8)
    left[:, :48] = 255
    ones = region(np.full((80, 96), 255, np.uint8), 96, 80)
    everywhere = ours(paint, ask(loras=(Wearing(lora),)))[0]
    assert abs(ours(paint, ask(loras=(Wearing(lora, 1.0, ones),)))[0] - everywhere).max() < SAME
    assert region(left, 96, 80).view(5, 6).tolist() == [[1, 1, 1, 0, 0, 0]] * 5
    one, two = Wearing(lora, 1.0, region(left, 96, 80)), Wearing(random_lora(4), 1.0, region(255 - left, 96, 80))
    both = ours(paint, ask(loras=(one, two)))[0]
    alone = ours(paint, ask(loras=(one,)))[0]
    assert abs(both - alone)[:, 64:].mean() > abs(both - alone)[:, :32].mean()


def test_a_region_that_does_not_fit_is_refused_before_anything_is_painted() -> None:
    paint = painter()
    paint.base.encode_text = None  # type: ignore[assignment]
    with pytest.raises(ParameterError, match="for 29 tokens, and the picture has 30"):
        paint.paint(ask(loras=(Wearing(random_lora(3), 1.0, torch.ones(29)),)))
    with pytest.raises(ParameterError, match="merged"):
        paint.paint(ask(loras=(Wearing(random_lora(3), 1.0, torch.ones(30)),), merged=True))


def test_regions_follow_a_large_picture_through_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from vividcover.image.flux import generate

    monkeypatch.setattr(generate, "ONE_PASS", 96 * 80 - 1)
    monkeypatch.setattr(generate, "FIRST_PASS", 48 * 48)
    left = region(np.repeat([[255] * 48 + [0] * 48], 80, axis=0).astype(np.uint8), 96, 80)
    assert painter().paint(ask(loras=(Wearing(random_lora(3), 1.0, left),)))[0].rgb.shape == (80, 96, 3)


def test_a_lora_is_off_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    paint = painter()
    plain = paint.paint(ask())[0].rgb
    decode = paint.base.decode
    monkeypatch.setattr(paint.base, "decode", None)
    with pytest.raises(TypeError):
        paint.paint(ask(loras=(Wearing(random_lora(1)),)))
    monkeypatch.setattr(paint.base, "decode", decode)
    assert (paint.paint(ask())[0].rgb == plain).all()


def test_a_lora_of_no_weight_is_none() -> None:
    paint = painter()
    worn = (Wearing(random_lora(1), 0.0, torch.ones(30)), Wearing(random_lora(2), 0.0))
    assert (paint.paint(ask(loras=worn))[0].rgb == paint.paint(ask())[0].rgb).all()


def test_a_dev_lora_paints_on_schnell() -> None:
    paint, lora = painter("schnell"), random_lora(1)
    assert (paint.paint(ask(loras=(Wearing(lora),)))[0].rgb != paint.paint(ask())[0].rgb).any()


@pytest.mark.parametrize(("quantise", "within"), [("none", SAME), ("fp8", 0.01)])
def test_what_is_compiled_has_no_breaks_and_changes_loras_without_compiling_again(quantise: Any, within: float) -> None:
    from vividcover.image.flux.generate import compile_blocks

    files = base_files("dev", Shelf(flux_dev=folder("dev")))
    plain, paint = (Painter(open_base(files, dtype=torch.float32, quantise=quantise, training=False)) for _ in range(2))
    compile_blocks(paint.base.flux, backend="eager")
    paint.compiled = True
    before, after = Wearing(random_lora(1), 0.7), Wearing(random_lora(2, rank=2))
    same(ours(paint, ask(loras=(before,)))[0], ours(plain, ask(loras=(before,)))[0], within)
    with torch._dynamo.config.patch(error_on_recompile=True):
        same(ours(paint, ask(loras=(after,)))[0], ours(plain, ask(loras=(after,)))[0], within)
        same(ours(paint, ask())[0], ours(plain, ask())[0], within)
    mask = torch.ones(30)
    same(ours(paint, ask(loras=(Wearing(after.lora, 1.0, mask),)))[0], ours(plain, ask(loras=(after,)))[0], within)
