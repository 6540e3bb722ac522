"""PyTorch modules that search: their calls of the operator become PatchCorrelation nodes."""

from typing import Any

import onnx
import onnxscript
import torch
from onnxscript.values import Opset
from torch import Tensor, nn

import dsin.training.patch_correlation  # noqa: F401 - registers the operator
from dsin.export.graphs import OPSET, quiet
from dsin.export.patch_correlation_op import DOMAIN, INPUTS, NAME, OUTPUTS, functions, node
from dsin.runtime.errors import ExportError
from dsin.runtime.patch_correlation.options import SearchOptions

_ATTRIBUTE_TYPES = {
    onnx.AttributeProto.INT: onnx.defs.OpSchema.AttrType.INT,
    onnx.AttributeProto.STRING: onnx.defs.OpSchema.AttrType.STRING,
}
_OUTPUT_TYPES = ("T", "tensor(int32)", "tensor(int32)", "tensor(float)")


def export_with_node(module: nn.Module, inputs: dict[str, Tensor]) -> onnx.ModelProto:
    """Export a module that calls `torch.ops.dsin.patch_correlation`: the call becomes the node.

    Raises ExportError where one graph would need bodies for two measures.
    """
    kind = onnx.defs.OpSchema(
        NAME,
        DOMAIN,
        1,
        inputs=[onnx.defs.OpSchema.FormalParameter(name, "T") for name in INPUTS],
        outputs=[
            onnx.defs.OpSchema.FormalParameter(name, text)
            for name, text in zip(OUTPUTS, _OUTPUT_TYPES, strict=True)
        ],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "images")],
        attributes=[
            onnx.defs.OpSchema.Attribute(a.name, _ATTRIBUTE_TYPES[a.type], required=True)
            for a in node(SearchOptions()).attribute
        ],
    )
    call = onnxscript.values.Op(Opset(DOMAIN, 1), NAME, kind)

    def translate(
        x_dec: Any, y_dec: Any, y: Any, patch_height: int, patch_width: int, prior: bool,
        measure: str, stretched: bool, off_centre: bool,
    ) -> Any:  # fmt: skip
        measures.add(measure)
        return call(
            x_dec, y_dec, y, patch_height=patch_height, patch_width=patch_width, prior=int(prior),
            measure=measure, stretched=int(stretched), off_centre=int(off_centre),
            plugin_namespace=DOMAIN, plugin_version="1",
        )  # fmt: skip

    measures: set[str] = set()
    with quiet("torch.onnx", "onnxscript"):
        program = torch.onnx.export(
            module.eval(), (), kwargs=inputs, dynamo=True, opset_version=OPSET, optimize=True,
            verbose=False,
            custom_translation_table={torch.ops.dsin.patch_correlation.default: translate},
        )  # fmt: skip
    if program is None or len(measures) > 1:
        raise ExportError("a graph can hold searches with one measure only")
    model = program.model_proto
    for measure in measures:
        model.functions.extend(functions(measure))
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return model
