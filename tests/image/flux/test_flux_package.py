"""The tar that a training hands out, and everything else that a LoRA comes in."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vividcover.errors import ModelFileError, ParameterError
from vividcover.image.flux.config import FluxConfig, block_targets, targets
from vividcover.image.flux.lorafile import Lora, Pair, worst_difference, write_lora
from vividcover.image.flux.package import FOLDER, LORA, card, read_package, write_package

TINY = FluxConfig(
    double_blocks=2, single_blocks=3, heads=2, head_dim=16, text_width=32, pooled_width=32, axes=(4, 4, 8)
)


def lora(seed: int = 0) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    known = targets(TINY)
    return Lora(
        {
            name: Pair(
                torch.randn(4, known[name].inputs, generator=generator) * 0.1,
                torch.randn(known[name].outputs, 4, generator=generator) * 0.01,
                4.0,
            )
            for name in block_targets(TINY)
        }
    )


def story(**more: Any) -> dict[str, Any]:
    said = {
        "trigger_word": "VIVI", "type": "subject", "consent": "I am the person in the photos", "base": "dev",
        "rank": 4, "steps": 30, "licence": "Non-Commercial", "commercial": None, "dataset_sha256": "ab" * 32,
    }  # fmt: skip
    return card("vivi", **(said | more))


def package(out: Path, **more: Any) -> Path:
    captions = {"a.jpg": "VIVI on a stage", "a.png": "VIVI in the rain", "b.jpg": "Vivi, “close”"}
    return write_package(out, lora(), story(**more), captions, "trigger_word: VIVI\n", {"0.png": b"png"}, config=TINY)


def test_what_is_packed_is_what_is_read(tmp_path: Path) -> None:
    found, said = read_package(package(tmp_path / "vivi.tar", loss=0.25), TINY)
    assert worst_difference(lora(), found)[0] < 1e-3
    assert said == story(loss=0.25)
    assert found.base == "dev"


def test_it_is_laid_out_as_readers_of_replicates_tar_expect_with_exactly_one_lora(tmp_path: Path) -> None:
    with tarfile.open(package(tmp_path / "vivi.tar")) as tar:
        names = tar.getnames()
        assert tar.extractfile(f"{FOLDER}/captions/b.txt").read().decode() == "Vivi, “close”\n"  # type: ignore[union-attr]
    assert [name for name in names if name.endswith(".safetensors")] == [LORA]
    assert {"model.json", f"{FOLDER}/config.yaml", f"{FOLDER}/samples/0.png"} <= set(names)
    assert {f"{FOLDER}/captions/{name}.txt" for name in ("a", "a-2", "b")} <= set(names)


def test_a_photo_may_be_called_anything(tmp_path: Path) -> None:
    names = ["../x.jpg", "deep/er/x.png", ".hidden", "", "model.safetensors.jpg", "C:\\me\\y.jpg", "Süß 写真.webp"]
    out = write_package(tmp_path / "vivi.tar", lora(), story(), dict.fromkeys(names, "VIVI"), config=TINY)
    with tarfile.open(out) as tar:
        found = {name.removeprefix(f"{FOLDER}/captions/") for name in tar.getnames() if "/captions/" in name}
    assert found == {"x.txt", "x-2.txt", "hidden.txt", "photo.txt", "model.safetensors.txt", "y.txt", "Süß 写真.txt"}
    assert read_package(out, TINY)[1]["name"] == "vivi"


def test_the_same_parts_give_the_same_bytes(tmp_path: Path) -> None:
    sums = {hashlib.sha256(package(tmp_path / f"{i}.tar").read_bytes()).hexdigest() for i in range(3)}
    assert len(sums) == 1


def test_nothing_is_left_when_a_lora_cannot_be_packed(tmp_path: Path) -> None:
    broken = lora()
    next(iter(broken.pairs.values())).a[0, 0] = float("nan")
    with pytest.raises(ModelFileError, match="holds NaN"):
        write_package(tmp_path / "vivi.tar", broken, story(), {}, config=TINY)
    assert list(tmp_path.iterdir()) == []


def published(folder: Path, *names: str, settings: str = "") -> Path:
    """A tar as Replicate's trainer makes it, without a card."""
    write_lora(folder / "one.safetensors", lora(), config=TINY)
    with tarfile.open(folder / "trained_model.tar", "w") as tar:
        for name in names:
            tar.add(folder / "one.safetensors", name)
        if settings:
            (folder / "config.yaml").write_text(settings)
            tar.add(folder / "config.yaml", f"{FOLDER}/config.yaml")
    return folder / "trained_model.tar"


@pytest.mark.parametrize("line", ["trigger_word: VIVI", "      - trigger_word: 'VIVI'", 'trigger_word: "VIVI"'])
def test_a_published_tar_without_a_card_says_its_trigger_word_in_its_settings(tmp_path: Path, line: str) -> None:
    tar = published(tmp_path, LORA, f"{FOLDER}/._lora.safetensors", settings=f"job: extension\n{line}\nsteps: 1000\n")
    found, said = read_package(tar, TINY)
    assert worst_difference(lora(), found)[0] < 1e-3
    assert (said["name"], said["rank"], said["trigger_word"], said["card"]) == ("trained_model", 4, "VIVI", False)


def test_a_zip_and_a_bare_file_are_read_too(tmp_path: Path) -> None:
    bare = write_lora(tmp_path / "vivi.safetensors", lora(), "kohya", config=TINY)
    with zipfile.ZipFile(tmp_path / "vivi.zip", "w") as zipped:
        zipped.write(bare, "models/vivi.safetensors")
        zipped.writestr("__MACOSX/models/._vivi.safetensors", b"")
    for path in (bare, tmp_path / "vivi.zip"):
        found, said = read_package(path, TINY)
        assert worst_difference(lora(), found)[0] < 1e-3
        assert (said["kind"], said["engine"], said["card"]) == ("vividcover-image", "neural", False)


def test_pefts_settings_in_an_archive_give_the_scale(tmp_path: Path) -> None:
    bare = write_lora(tmp_path / "x.safetensors", lora(), config=TINY)
    tensors = {name.replace("transformer.", "base_model.model.", 1): t for name, t in load_file(str(bare)).items()}
    save_file(tensors, str(bare))
    with zipfile.ZipFile(tmp_path / "vivi.zip", "w") as zipped:
        zipped.write(bare, "out/adapter_model.safetensors")
        zipped.writestr("out/adapter_config.json", '{"r": 4, "lora_alpha": 2}')
    found, _ = read_package(tmp_path / "vivi.zip", TINY)
    assert {pair.scale for pair in found.pairs.values()} == {0.5}


def test_two_loras_in_one_tar_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"2 LoRAs \(a/one.safetensors, b/two.safetensors\)"):
        read_package(published(tmp_path, "a/one.safetensors", "b/two.safetensors"), TINY)


def test_a_tar_that_was_cut_short_is_named_damaged(tmp_path: Path) -> None:
    whole = package(tmp_path / "vivi.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=r"cut\.tar is damaged"):
        read_package(tmp_path / "cut.tar", TINY)


def test_a_model_of_the_classic_engine_is_no_lora(tmp_path: Path) -> None:
    from vividcover.image.classic.modelfile import write_model

    write_model(tmp_path / "classic.tar", {"name": "vivi"}, {})
    with pytest.raises(ModelFileError, match="engine 'classic'"):
        read_package(tmp_path / "classic.tar", TINY)
    with pytest.raises(ModelFileError, match="There is no image model"):
        read_package(tmp_path / "none.tar", TINY)


@pytest.mark.parametrize("name", ["../x.png", ".hidden", "two.safetensors", ""])
def test_a_sample_cannot_lead_out_of_the_folder_nor_be_a_second_lora(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="no name for a file"):
        write_package(tmp_path / "vivi.tar", lora(), story(), {}, samples={name: b"x"}, config=TINY)
