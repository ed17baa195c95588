"""A tiny random MDX net as an ONNX file: two convolutions with a ReLU between, so that level and sign matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from seeded import fill

SMALL: dict[str, Any] = {"n_fft": 2048, "dim_f": 800, "dim_t": 16, "compensate": 1.035}
SHAPES = {"one.weight": (6, 4, 3, 3), "one.bias": (6,), "two.weight": (4, 6, 3, 3), "two.bias": (4,)}


def make(path: Path, dim_f: int = SMALL["dim_f"], dim_t: int = SMALL["dim_t"], seed: int = 0) -> Path:
    """[B, 4, dim_f, dim_t] -> the same shape, as the published files: input "input", output "output"."""
    shape = ["batch_size", 4, dim_f, dim_t]
    convolution = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "one.weight", "one.bias"], ["a"], **convolution),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "two.weight", "two.bias"], ["output"], **convolution),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in fill(SHAPES, seed).items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path
