"""Options that several commands have."""

import enum
from typing import Annotated

import typer


class BackendName(str, enum.Enum):
    """What the networks run on."""

    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    tensorrt_fp16 = "tensorrt-fp16"
    tensorrt_int8 = "tensorrt-int8"


BundleOption = Annotated[
    str | None,
    typer.Option(
        "--bundle", metavar="B", help="Bundle directory, or the name of a shipped bundle."
    ),
]
BackendOption = Annotated[BackendName, typer.Option("--backend", help="What runs the networks.")]
