"""Every card from 12 GB on gets a way that fits, and the fastest one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vividcover.errors import EngineError, ParameterError
from vividcover.image.flux.config import DEV
from vividcover.image.flux.options import TrainOptions
from vividcover.image.flux.presets import SIZES, fit, for_kind, needed, table


def test_every_usual_card_trains_with_the_default_options() -> None:
    rows = table(DEV, TrainOptions())
    assert [row["gb"] for row in rows] == list(SIZES)
    assert not [row for row in rows if "error" in row]
    assert [row["quantise"] for row in rows] == ["nf4", "nf4", "int8", "none", "none", "none", "none", "none"]
    assert all(row["needed_gb"] <= 0.95 * row["gb"] + 0.05 for row in rows)


def test_large_cards_compute_nothing_twice() -> None:
    assert fit(139e9, DEV, TrainOptions()).recompute == 0
    assert 0 < fit(80e9, DEV, TrainOptions()).recompute < 57  # a part of the blocks is enough
    assert fit(0, DEV, TrainOptions(batch_size=4)).at_once == 4  # nothing is known: nothing is spared


def test_a_small_card_leaves_out_the_largest_resolution() -> None:
    assert fit(12e9, DEV, TrainOptions()).resolutions == (512, 768)
    assert fit(12e9, DEV, TrainOptions(resolution="512")).resolutions == (512,)


def test_the_estimate_is_near_what_was_measured() -> None:
    """Stock peft, rank 16, bf16, without checkpointing: 23.8 GB of weights and 51.3 GiB of activations at 1024 px."""
    found = needed(DEV, TrainOptions(), quantise="none", recompute=0, at_once=1, side=1024)
    assert found == pytest.approx(23.8e9 + 51.3 * 2**30, rel=0.05)


def test_what_was_chosen_counts() -> None:
    plan = fit(139e9, DEV, TrainOptions(quantise="nf4", checkpointing=True))
    assert (plan.quantise, plan.recompute) == ("nf4", 57)
    assert plan.describe() == "the base in nf4, 57 blocks computed twice: about 12 GB of 139"


def test_what_fits_nowhere_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(EngineError, match=r"at 512 px needs about \d+ GB, and the device has 6.*quantise nf4"):
        fit(6e9, DEV, TrainOptions())
    with pytest.raises(EngineError, match="needs about"):
        fit(40e9, DEV, TrainOptions(quantise="none", checkpointing=False, resolution="1024"))


def test_options_that_make_no_sense_are_said() -> None:
    for wrong, said in (
        ({"steps": 0}, "steps is 0"), ({"rank": 0}, "rank is 0"), ({"learning_rate": float("nan")}, "rate is nan"),
        ({"resolution": "big"}, "resolution is 'big'"), ({"resolution": ""}, "512,768,1024"), ({"alpha": 0.0}, "is 0"),
        ({"optimizer": "sgd"}, "adamw8bit"), ({"kind": "person"}, "subject, style"), ({"timesteps": "x"}, "balanced"),
        ({"quantise": "fp4"}, "nf4"), ({"resolution": "32"}, "64 to 2048"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=said):
            TrainOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="no option 'lora_rank'"):
        TrainOptions().with_(lora_rank=4)
    assert TrainOptions().with_(**for_kind("style")).caption_dropout == 0.1


def test_several_processes_share_the_steps() -> None:
    """1000 pictures on eight devices are 125 steps of eight, as the published fast trainers count."""
    assert TrainOptions(steps=1000, processes=8).optimizer_steps == 125
    assert TrainOptions(steps=1000, processes=8, shared=False).optimizer_steps == 1000
    assert TrainOptions(learning_rate=1e-4, processes=4).rate == 2e-4
    assert TrainOptions(learning_rate=1e-4, processes=4, shared=False).rate == 1e-4
    assert TrainOptions(learning_rate=1.0, processes=4, optimizer="prodigy").rate == 1.0


def test_options_survive_a_way_through_json() -> None:
    import json
    from dataclasses import asdict

    options = TrainOptions(sample_prompts=("a", "b"), alpha=8.0, pattern="attn")
    assert TrainOptions.from_json(json.loads(json.dumps(asdict(options)))) == options


def test_options_and_plans_are_made_without_torch() -> None:
    """They are checked before a run begins, by programs that have no time to load it."""
    look = "import sys; from vividcover.image.flux import options, presets; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
