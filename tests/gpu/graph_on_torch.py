"""A bundle's own graphs, run by PyTorch on any device, as sessions of
`dsin.runtime.backends.session`.

    with sessions_on_torch("cuda", half=True):
        codec = family_of(bundle).open_codecs(bundle, "cpu", None)     its networks run on the GPU

The graphs are the shipped ones, operator by operator, so that what holds of them here holds of the
weights, the rounding and the order of operators that every other backend runs. Graphs of entropy
models stay in float32 whatever the networks run in. Only the operators that the bundles of `edge`
have are known.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from dsin.export.half_graph import read_graph, to_half
from dsin.runtime.backends.session import Session, wrapped_sessions
from dsin.runtime.codec import edge
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.entropy.hyper_codec import HyperTables
from dsin.runtime.entropy.session_network import SessionNetwork

Attributes = Mapping[str, Any]
Values = list[Tensor]


class TorchSession:
    """One graph on one device. `tf32` lets convolutions round to TensorFloat-32, which graphs of
    entropy models are not exact in."""

    def __init__(self, path: Path, device: str, *, half: bool = False, tf32: bool = False) -> None:
        model = read_graph(path)
        if half:
            to_half(model)
        graph = model.graph
        self.provider = f"PyTorch on {device}"
        self._device, self._tf32 = device, tf32
        self._constants = {
            tensor.name: _tensor(numpy_helper.to_array(tensor), device)
            for tensor in graph.initializer
        }
        self._nodes = [
            (_OPERATORS[node.op_type], _attributes(node), list(node.input), list(node.output))
            for node in graph.node
        ]
        self._outputs = [value.name for value in graph.output]
        self._using = threading.Lock()

    @torch.no_grad()
    def run(self, **inputs: Any) -> dict[str, NDArray[Any]]:
        """See `dsin.runtime.backends.session.Session`."""
        values = {name: _tensor(array, self._device) for name, array in inputs.items()}
        values |= self._constants
        with self._using:
            torch.backends.cudnn.allow_tf32 = self._tf32
            for operator, attributes, sources, targets in self._nodes:
                made = operator([values[name] for name in sources if name], attributes)
                values.update(zip(targets, made, strict=True))
        return {name: values[name].cpu().numpy() for name in self._outputs}

    def keep(self, **inputs: Any) -> dict[str, Any]:
        """The same: what lies on the GPU is copied."""
        return {**self.run(**inputs)}


@contextmanager
def sessions_on_torch(
    device: str, *, half: bool = False, tf32: bool = False, networks: bool = True
) -> Iterator[None]:
    """Sessions that are opened within run on PyTorch; without `networks` those of entropy models
    only."""

    def wrap(path: Path, session: Session) -> Session:
        entropy = path.stem == "hyper" or path.stem.startswith("step")
        if not (entropy or networks):
            return session
        return TorchSession(path, device, half=half and not entropy, tf32=tf32)

    def as_sessions(bundle: Bundle, tables: HyperTables, threads: int | None) -> SessionNetwork:
        return edge.open_sessions(bundle, tables, "cpu", threads)

    # The CPU's kernels are no sessions.
    with wrapped_sessions(wrap), mock.patch.object(edge, "open_kernels", as_sessions):
        yield


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _tensor(array: NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def _conv(given: Values, attributes: Attributes) -> Values:
    x, weight = given[:2]
    bias = given[2] if len(given) > 2 else None
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    assert pads[:2] == pads[2:], "bundles have symmetric padding only"
    stride = tuple(attributes.get("strides", [1, 1]))
    return [F.conv2d(x, weight, bias, stride, pads[:2], 1, attributes.get("group", 1))]


def _depth_to_space(given: Values, attributes: Attributes) -> Values:
    assert attributes.get("mode") == b"CRD", "PyTorch's pixel_shuffle is of this order"
    return [F.pixel_shuffle(given[0], attributes["blocksize"])]


def _gather(given: Values, attributes: Attributes) -> Values:
    assert attributes.get("axis", 0) == 0
    return [given[0][given[1]]]


def _pad(given: Values, _: Attributes) -> Values:
    ends = given[1].tolist()
    half = len(ends) // 2
    # PyTorch begins with the last axis.
    return [F.pad(given[0], [n for axis in range(half)[::-1] for n in ends[axis::half]])]


def _slice(given: Values, _: Attributes) -> Values:
    x, starts, ends, axes = given
    index = [slice(None)] * x.ndim
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        index[axis] = slice(start, end)
    return [x[tuple(index)]]


def _split(given: Values, attributes: Attributes) -> Values:
    return list(given[0].chunk(attributes["num_outputs"], attributes["axis"]))


def _cast(given: Values, attributes: Attributes) -> Values:
    kind = helper.tensor_dtype_to_np_dtype(attributes["to"])
    return [given[0].to(torch.from_numpy(np.empty(0, kind)).dtype)]


_OPERATORS: dict[str, Callable[[Values, Attributes], Values]] = {
    "Add": lambda given, _: [given[0] + given[1]],
    "Cast": _cast,
    "Clip": lambda given, _: [torch.clamp(given[0], given[1], given[2])],
    "Concat": lambda given, attributes: [torch.cat(given, attributes["axis"])],
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Floor": lambda given, _: [given[0].floor()],
    "Gather": _gather,
    "Identity": lambda given, _: [given[0]],
    "Log": lambda given, _: [given[0].log()],
    "Min": lambda given, _: [torch.minimum(given[0], given[1])],
    "Mul": lambda given, _: [given[0] * given[1]],
    "Pad": _pad,
    "Relu": lambda given, _: [given[0].relu()],
    "Round": lambda given, _: [given[0].round()],
    "Slice": _slice,
    "Split": _split,
    "Sub": lambda given, _: [given[0] - given[1]],
}
