"""What the logs of a run say to whoever asked for it."""

from __future__ import annotations

from pathlib import Path

from run_making import add, finished, opened, told, worker
from vividcover.settings import settings
from vividcover.store.artifacts import Artifacts

LORA = "vividcover/flux-lora"


def test_a_parameter_or_a_word_that_cannot_be_followed_is_named_once(home: Path) -> None:
    """Parameters when the run begins, words of the prompt when its stage has read them."""
    artifacts = Artifacts.of(settings())
    weights = artifacts.put_file(next((home / "images").rglob("*.tar")))
    wanted = {
        "prompt": "VIVI on a stage with a zeppelin", "replicate_weights": "w", "num_inference_steps": 12,
        "width": 256, "height": 256,
    }  # fmt: skip
    linked = {"w": {"sha256": weights, "name": "trained_model.tar"}}
    with opened(settings().database_url) as database, worker():
        order = {"serves": LORA, "model": LORA, "input": wanted, "files": linked, "output_shape": "files"}
        run_id = add(database, **order)
        assert finished(database, run_id, 180)["status"] == "succeeded", told(database, run_id)
        log = "".join(told(database, run_id)).splitlines()
    refused = [line for line in log if "not honoured" in line]
    assert [line.partition("=")[0] for line in refused] == ["num_inference_steps", "prompt"]
    assert "zeppelin" in refused[1]
