"""Which of a worker's children carries out which model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from run_making import until
from vividcover.catalog.contract import LARGE
from vividcover.cover import models
from vividcover.runs.child import WARM, Children, kind_of
from vividcover.settings import settings

FLUX = ("vividcover/flux-lora", "ostris/flux-dev-lora-trainer", "black-forest-labs/flux-pro-finetuned")


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children(settings())
    yield made
    made.close()


def test_models_that_share_nets_share_a_child_and_the_others_have_their_own(children: Children) -> None:
    first = children.take(FLUX[0])
    assert [children.take(name) for name in FLUX] == [first] * len(FLUX)
    other = children.take("zsxkib/realistic-voice-cloning")
    assert other is not first and children.take(FLUX[1]) is first
    until(lambda: children.warm() == {name for name, m in models().items() if m.together == LARGE} | {
        "zsxkib/realistic-voice-cloning"
    })  # fmt: skip
    children.drop(FLUX[2])
    assert first.dead and children.take(FLUX[0]) is not first


def test_a_model_that_nobody_knows_has_a_child_too(children: Children) -> None:
    assert kind_of("nobody/nothing") == "nobody/nothing"
    taken = [children.take(name) for name in ("nobody/nothing", "nobody/other", "nobody/third")]
    assert [child.dead for child in taken] == [True] + [False] * WARM
