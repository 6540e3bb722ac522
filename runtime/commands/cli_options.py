"""Options that several commands have."""

import enum
from pathlib import Path
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


class PrecisionName(str, enum.Enum):
    """What the networks compute in."""

    auto = "auto"
    float = "float"
    int8 = "int8"


TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Write a time line of all stages to FILE, for ui.perfetto.dev.",
    ),
]
PrecisionOption = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        help="What the networks compute in; auto takes 8 bits where bundle and CPU have them.",
    ),
]


class LookName(str, enum.Enum):
    """What the fusion was trained for."""

    faithful = "faithful"
    structure = "structure"
    sharp = "sharp"


LookOption = Annotated[
    LookName,
    typer.Option(
        "--look",
        help="How the picture is restored: faithful has the least error, structure looks nearest, "
        "sharp has the detail of the side image where it is not certain. Devices need not know.",
    ),
]
RateOption = Annotated[
    int | None,
    typer.Option(
        "--rate",
        metavar="R",
        min=0,
        help="Rate point; 0 is the lowest rate [the bundle's default].",
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Folder that the paths in lists are relative to."),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to FILE as JSON.")
]
BackendOption = Annotated[BackendName, typer.Option("--backend", help="What runs the networks.")]


def bundle_at(
    bundle: str | None, precision: PrecisionName, look: LookName = LookName.faithful
) -> str | None:
    """The bundle's name with precision and look behind it, as `open_bundle` takes it."""
    choices = [precision.value] if precision is not PrecisionName.auto else []
    if look is not LookName.faithful:
        choices.append(look.value)
    if not choices:
        return bundle
    from dsin.runtime.codec.bundle import DEFAULT_BUNDLE

    return "@".join([bundle or DEFAULT_BUNDLE, *choices])
