"""What looks at pictures: the two checkers, depth, and Redux's eye, as tiny random nets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vividcover.errors import EngineError, ModelFileError, ParameterError, VividCoverError, WeightsError
from vividcover.image.flux.depth import Depth
from vividcover.image.flux.redux import Redux
from vividcover.image.flux.request import Rgb
from vividcover.image.flux.safety import ConceptChecker, Guard, NsfwDetector, stand_in

CPU = torch.device("cpu")
PHOTOS = [np.random.default_rng(i).integers(0, 256, (48, 40, 3)).astype(np.uint8) for i in range(8)]
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny random nets, each saved by the library that published them."""
    import transformers as t
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("nets")
    clip = t.CLIPConfig(
        projection_dim=16, vision_config=VISION, text_config={"hidden_size": 16, "num_hidden_layers": 1}
    )
    checker = StableDiffusionSafetyChecker(clip)
    for name, count in (("concept", 17), ("special_care", 3)):
        getattr(checker, f"{name}_embeds").data = torch.randn(count, 16)
        getattr(checker, f"{name}_embeds_weights").data = torch.full((count,), 0.45)
    checker.save_pretrained(root / "checker")
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    t.CLIPImageProcessor(**crop).save_pretrained(root / "checker")

    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    t.ViTForImageClassification(t.ViTConfig(**VISION, **labels)).save_pretrained(root / "nsfw")
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "nsfw")

    t.SiglipVisionModel(t.SiglipVisionConfig(**VISION)).save_pretrained(root / "redux" / "image_encoder")
    t.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "redux" / "feature_extractor")
    ReduxImageEncoder(redux_dim=32, txt_in_features=24).save_pretrained(root / "redux" / "image_embedder")

    back = t.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    sizes: dict[str, Any] = {
        "reassemble_hidden_size": 16, "neck_hidden_sizes": [4, 8, 8, 8], "fusion_hidden_size": 8, "head_hidden_size": 4,
    }  # fmt: skip
    depth = t.DepthAnythingForDepthEstimation(t.DepthAnythingConfig(backbone_config=back, **sizes))
    for convolution in (depth.head.conv1, depth.head.conv2, depth.head.conv3):
        convolution.weight.data.mul_(100)  # a random net sees hardly any depth
    depth.save_pretrained(root / "depth")
    t.DPTImageProcessor(
        size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=True
    ).save_pretrained(root / "depth")
    return root


# the two checkers ------------------------------------------------------------------------------------------------


def test_concepts_are_judged_as_the_library_does(nets: Path) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    theirs = StableDiffusionSafetyChecker.from_pretrained(str(nets / "checker")).eval()
    pixels = CLIPImageProcessor.from_pretrained(str(nets / "checker"))(PHOTOS, return_tensors="pt")["pixel_values"]
    checker = ConceptChecker(nets / "checker", device=CPU)
    verdicts = set()
    for threshold in (0.30, 0.45, 0.50, 0.55, 0.60, 0.70):
        theirs.concept_embeds_weights.data.fill_(threshold)
        theirs.special_care_embeds_weights.data.fill_(threshold - 0.2)
        checker.ready()
        checker._net.concept_embeds_weights.data.fill_(threshold)
        checker._net.special_care_embeds_weights.data.fill_(threshold - 0.2)
        _, expected = theirs(pixels, [p.copy() for p in PHOTOS])
        assert [v > 0 for v in checker.scores(PHOTOS)] == expected
        verdicts |= set(expected)
    assert verdicts == {True, False}


def test_the_detector_gives_the_class_named_nsfw(nets: Path) -> None:
    from transformers import ViTForImageClassification, ViTImageProcessor

    net = ViTForImageClassification.from_pretrained(str(nets / "nsfw")).eval()
    pixels = ViTImageProcessor.from_pretrained(str(nets / "nsfw"))(PHOTOS, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = net(pixels).logits.softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(NsfwDetector(nets / "nsfw", device=CPU).scores(PHOTOS), expected, atol=1e-6)


class Says:
    """A checker that gives what it is told to."""

    limits: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

    def __init__(self, name: str, *scores: float) -> None:
        self.name, self.given = name, list(scores)

    def ready(self) -> None: ...

    def scores(self, pictures: Sequence[Rgb]) -> list[float]:
        return self.given[: len(pictures)]


def test_a_higher_tolerance_holds_back_less() -> None:
    guard = Guard([Says("one", 0.35), Says("two", 0.55)])
    assert [guard.look(PHOTOS[:1], tolerance)[0].safe for tolerance in range(7)] == [False] * 3 + [True] * 4
    verdict = guard.look(PHOTOS[:1], 2)[0]
    assert verdict.why == "held back by one and two"
    assert verdict.scores == {"one": 0.35, "two": 0.55}


def test_one_objection_is_enough_for_the_strict_and_two_for_the_rest() -> None:
    guard = Guard([Says("one", 0.0), Says("two", 1.0)])
    assert [guard.look(PHOTOS[:1], tolerance)[0].safe for tolerance in range(7)] == [False] * 2 + [True] * 5


class Broken(Says):
    def scores(self, pictures: Sequence[Rgb]) -> list[float]:
        raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    "checker",
    [Broken("two"), Says("two"), Says("two", float("nan")), Says("two", float("-inf"))],
    ids=["fails", "counts wrong", "gives no number", "gives minus infinity"],
)
def test_a_checker_that_fails_lets_nothing_out(checker: Says) -> None:
    with pytest.raises(EngineError, match="two"):
        Guard([Says("one", 0.0), checker]).look(PHOTOS[:1], 6)


def test_no_checker_is_no_guard(tmp_path: Path) -> None:
    class Nothing:
        def path(self, name: str) -> Path:
            raise WeightsError(f"{name} is not here.", "Pull it.")

        def has(self, name: str) -> bool:
            return False

    with pytest.raises(ParameterError):
        Guard([])
    with pytest.raises(WeightsError, match="safety-checker"):
        Guard.from_weights(Nothing(), device=CPU)
    with pytest.raises(WeightsError, match="nowhere"):
        Guard([ConceptChecker(tmp_path / "nowhere", device=CPU)]).ready()


def test_a_checker_without_its_head_is_refused_rather_than_filled_with_noise(nets: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name, kind, lost in (
        ("checker", ConceptChecker, "concept_embeds"), ("nsfw", NsfwDetector, "classifier.weight"),
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        for file in (nets / name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(folder / "model.safetensors")
        del tensors[lost]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match=lost):
            Guard([kind(folder, device=CPU)]).ready()


@pytest.mark.parametrize(
    ("name", "make", "nested"),
    [("checker", ConceptChecker, "vision_model."), ("redux/image_encoder", None, "")], ids=["checker", "siglip"],
)  # fmt: skip
def test_files_in_their_published_spelling_are_read(
    nets: Path, tmp_path: Path, name: str, make: Any, nested: str
) -> None:
    """Newer libraries spell these nets with one level less than the files that are on the hub."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "redux" / Path(name).name
    shutil.copytree(nets / "redux", tmp_path / "redux")
    shutil.copytree(nets / name, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    deeper = {f"vision_model.{key}" if key.startswith(nested) else key: value for key, value in tensors.items()}
    if make:
        deeper["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    assert set(deeper) != set(tensors)
    if make:
        (folder / "model.safetensors").unlink()
        torch.save(deeper, folder / "pytorch_model.bin")
    else:
        save_file(deeper, folder / "model.safetensors", {"format": "pt"})
    if make:
        assert make(folder, device=CPU).scores(PHOTOS) == make(nets / name, device=CPU).scores(PHOTOS)
    else:
        found = Redux(tmp_path / "redux", device=CPU, dtype=torch.float32).tokens(PHOTOS[0])
        assert torch.equal(found, Redux(nets / "redux", device=CPU, dtype=torch.float32).tokens(PHOTOS[0]))


def test_what_stands_for_a_picture_shows_nothing_of_it() -> None:
    assert stand_in(PHOTOS[0]).shape == PHOTOS[0].shape
    assert (stand_in(PHOTOS[0]) == stand_in(PHOTOS[1])).all()


def test_opening_the_nets_prints_nothing(nets: Path) -> None:
    """Neither logs nor advice to install what is not needed; in a process of its own, for the library says it once."""
    program = f"""
from pathlib import Path
import numpy as np, torch
from vividcover.image.flux.depth import Depth
from vividcover.image.flux.redux import Redux
from vividcover.image.flux.safety import ConceptChecker, NsfwDetector
root, cpu, rgb = Path({str(nets)!r}), torch.device("cpu"), np.zeros((48, 40, 3), np.uint8)
ConceptChecker(root / "checker", device=cpu).scores([rgb])
NsfwDetector(root / "nsfw", device=cpu).scores([rgb])
Depth(root / "depth", device=cpu).of(rgb)
Redux(root / "redux", device=cpu, dtype=torch.float32).tokens(rgb)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# depth -----------------------------------------------------------------------------------------------------------


def test_depth_has_the_pictures_size_and_uses_the_whole_range(nets: Path) -> None:
    depth = Depth(nets / "depth", device=CPU)
    found = depth.of(PHOTOS[0])
    assert (found.shape, found.dtype) == ((48, 40, 3), np.uint8)
    assert (found.min(), found.max()) == (0, 255)
    assert (found[..., 0] == found[..., 2]).all()
    depth.release()
    assert (depth.of(PHOTOS[0]) == found).all()


def test_a_folder_that_is_no_depth_net_is_named(nets: Path) -> None:
    with pytest.raises(WeightsError, match="nsfw"):
        Depth(nets / "nsfw", device=CPU).of(PHOTOS[0])


# Redux -----------------------------------------------------------------------------------------------------------


def test_redux_sees_what_stock_diffusers_does(nets: Path) -> None:
    from diffusers import FluxPriorReduxPipeline
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from PIL import Image
    from transformers import SiglipImageProcessor, SiglipVisionModel

    stock = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel.from_pretrained(str(nets / "redux/image_encoder")).eval(),
        feature_extractor=SiglipImageProcessor.from_pretrained(str(nets / "redux/feature_extractor")),
        image_embedder=ReduxImageEncoder.from_pretrained(str(nets / "redux/image_embedder")),
    )
    with torch.no_grad():
        expected = stock.image_embedder(stock.encode_image(Image.fromarray(PHOTOS[0]), CPU, 1)).image_embeds
    redux = Redux(nets / "redux", device=CPU, dtype=torch.float32)
    found = redux.tokens(PHOTOS[0])
    assert found.shape == (1, 16, 24)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(redux.tokens(PHOTOS[0], 0.5), expected / 2, atol=1e-6, rtol=0)


def test_redux_takes_the_makers_one_file_beside_the_whole_of_siglip(nets: Path, tmp_path: Path) -> None:
    import transformers as t

    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = t.SiglipModel(t.SiglipConfig(vision_config=VISION, text_config={**text, "vocab_size": 9}))
    seen = t.SiglipVisionModel.from_pretrained(str(nets / "redux/image_encoder"))
    whole.vision_model.load_state_dict(seen.state_dict())
    whole.save_pretrained(tmp_path / "siglip")
    shutil.copy(nets / "redux/feature_extractor/preprocessor_config.json", tmp_path / "siglip")
    single = shutil.copy(next((nets / "redux/image_embedder").glob("*.safetensors")), tmp_path / "redux.safetensors")
    expected = Redux(nets / "redux", device=CPU, dtype=torch.float32).tokens(PHOTOS[0])
    found = Redux(Path(single), tmp_path / "siglip", device=CPU, dtype=torch.float32).tokens(PHOTOS[0])
    assert torch.equal(found, expected)


def test_what_is_not_redux_is_named(nets: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="0 files"):
        Redux(tmp_path, device=CPU, dtype=torch.float32).tokens(PHOTOS[0])
    with pytest.raises(WeightsError, match="weights pull siglip"):
        Redux(next((nets / "redux/image_embedder").glob("*.safetensors")), device=CPU, dtype=torch.float32).ready()
    with pytest.raises(VividCoverError, match="no redux_up"):
        Redux(nets / "nsfw", nets / "redux/image_encoder", device=CPU, dtype=torch.float32).tokens(PHOTOS[0])
    broken = tmp_path / "redux.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b" " * 20)
    with pytest.raises((ModelFileError, WeightsError)):
        Redux(broken, nets / "redux/image_encoder", device=CPU, dtype=torch.float32).ready()
