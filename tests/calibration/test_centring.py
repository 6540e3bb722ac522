"""Features shifted to have zero in the middle: what may be, and that nothing else changes."""

import numpy as np
import onnx
import pytest

from dsin.calibration.centring import centred, centring_shifts
from dsin.calibration.int8 import run, run_all
from dsin.calibration.ranges import Extent, feature_extents
from tests.support.residual_graph import residual_graph, residual_runs

NAMES = ["stem", "relu", "depthwise", "sum"]


def without_gain() -> onnx.ModelProto:
    model = residual_graph()
    (last,) = (node for node in model.graph.node if node.name == "last")
    last.input[0] = "sum"
    for node in [node for node in model.graph.node if node.name in ("gain", "row")]:
        model.graph.node.remove(node)
    return model


def extents_of(model: onnx.ModelProto) -> dict[str, Extent]:
    given = {value.name for value in model.graph.input}
    runs = residual_runs()
    if "row" not in {node.name for node in model.graph.node}:
        del model.graph.input[1:]
        runs = [{"x": one["x"]} for one in runs]
    assert given
    return feature_extents(run_all(model, runs, NAMES), NAMES)


def off_centre(extent: Extent) -> float:
    return float(np.abs((extent.low + extent.high) / (extent.high - extent.low)).max())


def test_what_pointwise_layers_and_sums_read_is_centred() -> None:
    model = without_gain()
    before = extents_of(model)
    shifts = centring_shifts(model, before)
    assert set(shifts) == {"stem", "depthwise", "outer", "sum"}
    out = centred(model, shifts)
    onnx.checker.check_model(out)
    after = extents_of(out)
    for name in ("stem", "depthwise", "sum"):
        assert off_centre(before[name]) > 0.05
        assert off_centre(after[name]) < 1e-4
    np.testing.assert_allclose(after["relu"].high, before["relu"].high, rtol=1e-4)
    x = residual_runs()[0]["x"]
    np.testing.assert_allclose(run(out, {"x": x})["y"], run(model, {"x": x})["y"], atol=2e-5)


def test_a_layer_takes_back_a_shift_that_a_gain_must_not_see() -> None:
    model = residual_graph()
    shifts = centring_shifts(model, extents_of(model))
    assert set(shifts) == {"stem", "depthwise", "outer"}
    np.testing.assert_array_equal(shifts["outer"], -shifts["stem"])
    out = centred(model, shifts)
    for one in residual_runs():
        np.testing.assert_allclose(run(out, one)["y"], run(model, one)["y"], atol=2e-5)


@pytest.mark.parametrize("what", ["output", "padding", "shared bias", "no bias"])
def test_what_others_see_stays(what: str) -> None:
    model = residual_graph()
    (outer,) = (node for node in model.graph.node if node.name == "outer")
    if what == "output":
        model.graph.output.append(onnx.ValueInfoProto(name="depthwise"))
    elif what == "padding":
        outer.attribute.append(onnx.helper.make_attribute("pads", [0, 0, 0, 0]))
        outer.attribute[-1].ints[0] = 1
    elif what == "shared bias":
        outer.input[2] = "b_inner"
    else:
        del outer.input[2]
    extents = {name: Extent(np.zeros(8), np.ones(8)) for name in NAMES}
    assert "depthwise" not in centring_shifts(model, extents)
