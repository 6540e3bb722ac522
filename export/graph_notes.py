"""What a whole decoder says about itself: names, ranges and padding, in the file's metadata.

Any runtime reads it: onnxruntime by `session.get_modelmeta().custom_metadata_map`. There is one
entry for each input and output, and `padding`; values are for people.
"""

from collections.abc import Mapping

import onnx

PICTURES = {
    "y": "the side image, RGB planes of whole levels, 0 to 255",
    "y_dec": "the side image encoded and decoded at the same rate, RGB planes, 0 to 255, not "
    "rounded",
    "x_hat": "the result, RGB planes, 0 to 255, not rounded",
    "x_dec": "what the packet gives without the side image, RGB planes, 0 to 255, not rounded",
    "y_syn": "pieces of y where they match x_dec, RGB planes, 0 to 255",
}


def positions(patch: tuple[int, int]) -> dict[str, str]:
    """Of the search's outputs; `patch` is (height, width)."""
    pieces = f"for each patch of {patch[0]}x{patch[1]} pixels (rows x columns) of x_dec"
    return {
        "row": f"{pieces}, the top row of the piece of y that matches; 0 to the height of y",
        "col": f"{pieces}, the left column of the piece of y that matches; 0 to the width of y",
        "score": f"{pieces}, the score of the piece of y that matches",
    }


def padding(multiple: tuple[int, int], least: tuple[int, int] | None = None) -> str:
    """How pictures are padded to a (height, width) multiple, and to the least height and width."""
    at_least = "" if least is None else f", at least {least[0]} and {least[1]}"
    return (
        f"repeat the last row and column until the height is a multiple of {multiple[0]} and the "
        f"width one of {multiple[1]}{at_least}; crop the pictures that come out to the size before"
    )


def describe(model: onnx.ModelProto, notes: Mapping[str, str]) -> None:
    """Put notes into a model, in place; each input and output must have one."""
    values = {value.name for value in (*model.graph.input, *model.graph.output)}
    assert values <= set(notes), values - set(notes)
    onnx.helper.set_model_props(model, dict(notes))
