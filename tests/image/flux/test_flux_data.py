"""Which pictures a step takes and what is random in it follow from the seed and the step's number alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from vividcover.errors import ImageError, ModelFileError
from vividcover.image.flux.data import EMPTY, Item, Order, Store, TrainingSet, draws
from vividcover.image.flux.encode import split

torch.set_num_threads(1)


def a_set(store: Store, masked: bool = False) -> TrainingSet:
    sizes = [(64, 64), (64, 64), (64, 32), (64, 64)]
    items = []
    for number, (width, height) in enumerate(sizes):
        random = torch.Generator().manual_seed(number)
        tensors = {"latent": torch.randn(16, height // 8, width // 8, generator=random)}
        if masked:
            tensors["mask"] = torch.zeros(height // 8, width // 8)
            tensors["mask"][:2, :2] = 1.0
        store.put(f"item_{number:05d}", tensors)
        items.append(Item(f"photo{number}", 1 + number % 2, width, height, 64, masked))
    for number in range(3):
        store.put(f"text_{number:05d}", {"tokens": torch.full((4, 8), float(number)), "pooled": torch.ones(8)})
    return TrainingSet(items, ["", "one", "two"], store)


def test_all_pictures_come_once_before_any_comes_again() -> None:
    order = Order(dict.fromkeys(range(7), (8, 8)), batch=1, seed=3)
    assert order.steps == 7
    assert sorted(i for step in range(7) for i in order.ids(step)) == list(range(7))
    assert [order.ids(s) for s in range(7)] != [order.ids(s) for s in range(7, 14)]
    again = Order(dict.fromkeys(range(7), (8, 8)), batch=1, seed=3)
    assert again.ids(9) == order.ids(9)  # without having been asked for the steps before


def test_a_batch_has_one_size_and_is_always_full() -> None:
    shapes = {0: (8, 8), 1: (8, 8), 2: (4, 8), 3: (8, 8)}
    order = Order(shapes, batch=2, seed=0)
    assert order.steps == 3
    for step in range(9):
        ids = order.ids(step)
        assert len(ids) == 2
        assert len({shapes[i] for i in ids}) == 1
    assert set(Counter(i for step in range(3) for i in order.ids(step))) == {0, 1, 2, 3}


def test_draws_depend_on_seed_and_step_only() -> None:
    assert draws(1, 5, 2) == draws(1, 5, 2)
    assert draws(1, 5, 2) != draws(1, 6, 2)
    assert draws(1, 5, 2) != draws(2, 5, 2)


def test_captions_are_left_out_as_often_as_asked() -> None:
    lessons = a_set(Store())
    always = lessons.batch([0, 1], draws(0, 0, 2), caption_dropout=1.0)
    never = lessons.batch([0, 1], draws(0, 0, 2), caption_dropout=0.0)
    assert always.tokens.unique().tolist() == [EMPTY]
    assert never.tokens[:, 0, 0].tolist() == [1.0, 2.0]
    left_out = sum(d.dropped < 0.05 for step in range(1000) for d in draws(7, step, 2))
    assert 60 < left_out < 140  # of 2000


def test_masks_weigh_places_and_keep_the_mean() -> None:
    weight = a_set(Store(), masked=True).batch([0], draws(0, 0, 1), background=0.1).weight
    assert weight is not None
    assert float(weight.mean()) == pytest.approx(1.0)
    assert float(weight[0, 0, 0] / weight[0, 5, 5]) == pytest.approx(10.0)
    assert a_set(Store(), masked=True).batch([0], draws(0, 0, 1), background=1.0).weight is None
    assert a_set(Store()).batch([0], draws(0, 0, 1), background=0.1).weight is None


def test_a_set_on_the_disk_is_the_same_set(tmp_path: Path) -> None:
    there, here = a_set(Store(tmp_path / "set")), a_set(Store())
    assert TrainingSet.open(tmp_path / "set") is None  # not said to be whole yet
    there.close("abc")
    assert TrainingSet.open(tmp_path / "set", "other") is None
    opened = TrainingSet.open(tmp_path / "set", "abc")
    assert opened is not None
    assert (opened.items, opened.captions) == (here.items, here.captions)
    one, other = (s.batch([0, 3], draws(1, 2, 2)) for s in (opened, here))
    for name in ("latents", "noise", "sigma", "tokens", "pooled"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    (tmp_path / "set" / "set.json").write_text("{")
    with pytest.raises(ModelFileError, match="damaged"):
        TrainingSet.open(tmp_path / "set")


def test_photos_are_held_back_with_all_their_sizes() -> None:
    items = [Item(f"photo{i // 2}", 0, 64, 64 * (1 + i % 2), 64) for i in range(10)]
    lessons = TrainingSet(items, [""], Store())
    taught, tested = split(lessons, 0.4)
    assert sorted(taught + tested) == list(range(10))
    assert {items[i].name for i in tested} == {"photo0", "photo2"}
    assert not {items[i].name for i in taught} & {items[i].name for i in tested}
    assert split(lessons, 0.0) == (list(range(10)), list(range(10)))
    with pytest.raises(ImageError, match="Of 1 photos 1 would be held back"):
        split(TrainingSet(items[:2], [""], Store()), 0.1)
