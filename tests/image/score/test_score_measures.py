"""Scores without large nets: totals, sharpness, variety, and the face of the sample singer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vividcover.errors import ImageError, ParameterError, WeightsError
from vividcover.image.score.face import Likeness, faces_in
from vividcover.image.score.measures import Sharpness, diversity
from vividcover.image.score.panel import Panel, Rgb, open_panel
from vividcover.portrait.faces import FaceKit
from vividcover.weights import Shelf


class Fixed:
    """Gives what it was told, by the first byte of a picture."""

    meaning = "fixed"

    def __init__(self, name: str, low: float, high: float) -> None:
        self.name, self.low, self.high = name, low, high

    def scores(self, pictures: Sequence[Rgb], prompts: Sequence[str]) -> list[float]:
        return [float(picture[0, 0, 0]) for picture in pictures]


def flat(value: int) -> Rgb:
    return np.full((8, 8, 3), value, np.uint8)


def test_a_total_is_the_weighted_mean_of_scores_between_their_ends() -> None:
    panel = Panel([Fixed("a", 0, 100), Fixed("b", 50, 100)], {"a": 1, "b": 3})
    judged = panel.judge([flat(50), flat(100), flat(0), flat(200)], [""] * 4)
    assert [j.total for j in judged] == [0.125, 1.0, 0.0, 1.0]
    assert judged[0].values == {"a": 50.0, "b": 50.0}
    assert panel.legend()[1] == {"score": "b", "meaning": "fixed", "from": 50, "to": 100, "weight": 3.0}


def test_many_pictures_are_judged_in_order() -> None:
    judged = Panel([Fixed("a", 0, 100)]).judge([flat(i) for i in range(30)], ["x"] * 30)
    assert [j.values["a"] for j in judged] == list(range(30))


@pytest.mark.parametrize("weights", [{"a": -1}, {"a": float("nan")}, {"a": 0}])
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        Panel([Fixed("a", 0, 1)], weights)


@pytest.fixture(scope="module")
def kit() -> FaceKit:
    return FaceKit()


@pytest.fixture(scope="module")
def photos(sample: Path) -> list[Rgb]:
    names = ("01", "02", "03", "04", "05", "07", "08")
    return [np.asarray(Image.open(sample / "photos" / f"{name}.jpg").convert("RGB")) for name in names]


def test_a_blurred_photo_is_less_sharp_and_size_and_grain_do_not_count(photos: list[Rgb]) -> None:
    photo = photos[0]
    noisy = np.clip(photo + np.random.default_rng(0).normal(0, 4, photo.shape), 0, 255).astype(np.uint8)
    small = cv2.resize(photo, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    whole, blurred, grainy, smaller, grey = Sharpness().scores(
        [photo, cv2.GaussianBlur(photo, (0, 0), 3), noisy, small, flat(9)]
    )
    assert blurred < whole / 3 and grey == 0
    assert abs(smaller - whole) < 0.35 * whole and abs(grainy - whole) < 0.5 * whole


def test_variety_is_none_for_copies_and_grows_with_difference(photos: list[Rgb]) -> None:
    again = cv2.resize(photos[0], (500, 500))
    assert diversity([photos[0], again]) == 0.0 == diversity(photos[:1])
    nudged = np.roll(photos[0], 40, axis=1)
    assert 0 < diversity([photos[0], nudged]) < diversity(photos[:4]) < diversity([photos[0], 255 - photos[0]]) <= 1


def test_her_own_photos_are_more_like_her_than_a_changed_face(photos: list[Rgb], kit: FaceKit) -> None:
    scorer = Likeness(photos[:4], kit)
    own = scorer.scores(photos[4:])
    narrower = [cv2.resize(photo, None, fx=0.8, fy=1.0) for photo in photos[4:]]
    darker = [(photo * 0.5).astype(np.uint8) for photo in photos[4:]]
    assert min(own) > 0.4 > max(scorer.scores(narrower + darker))
    assert scorer.scores([flat(128).repeat(40, 0).repeat(40, 1)]) == [0.0]  # no face at all


def test_photos_without_a_face_cannot_be_compared_with(kit: FaceKit) -> None:
    nothing = [np.full((300, 300, 3), 90, np.uint8)]
    assert not faces_in(nothing, kit)
    with pytest.raises(ImageError, match="No face"):
        Likeness(nothing, kit)


def test_without_any_net_face_and_sharpness_still_judge(photos: list[Rgb], kit: FaceKit, tmp_path: Path) -> None:
    panel = open_panel(weights=Shelf(tmp_path), references=photos[:2], kit=kit)
    assert list(panel.weights) == ["face", "sharpness"]
    good, bad = panel.judge([photos[4], cv2.GaussianBlur(photos[4], (0, 0), 25)], ["x", "x"])
    assert good.total > bad.total + 0.3


def test_a_recognition_net_is_used_where_there_is_one(photos: list[Rgb], kit: FaceKit, tmp_path: Path) -> None:
    """A tiny random net with SFace's shape: aligned 112 px in, a vector out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    kernel = (random.normal(size=(16, 3, 28, 28)) / 50).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["data", "w"], ["c"], kernel_shape=[28, 28], strides=[28, 28]),
            helper.make_node("Flatten", ["c"], ["fc1"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 256])],
        [numpy_helper.from_array(kernel, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), tmp_path / "f.onnx")
    scorer = Likeness(photos[:1], kit, net=tmp_path / "f.onnx")
    same, other = scorer.scores([photos[0], photos[1]])
    assert same == pytest.approx(1.0, abs=1e-5) and other < 0.999 and "SFace" in scorer.meaning
    (tmp_path / "bad.onnx").write_bytes(b"no net")
    with pytest.raises(WeightsError, match=r"bad\.onnx"):
        Likeness(photos[:1], kit, net=tmp_path / "bad.onnx")
