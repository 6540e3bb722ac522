"""Presets: all sizes, options and schedules of a model, read from TOML, saved with checkpoints."""

import dataclasses
import sys
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

from dsin.runtime.codec.bundle import FamilyName
from dsin.runtime.errors import CheckpointError
from dsin.runtime.files import is_file
from dsin.runtime.patch_correlation.options import SearchOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Quirks:
    """Habits of the original implementation that were not intended. All off by default.

    `dsin import-tf` switches them on, so that the original's weights give the original's picture.
    """

    tf_same_padding: bool = False
    """Stride-2 layers see one pixel before and two after (TensorFlow's SAME); off: centred."""
    relu_on_logits: bool = False
    """The context model's last layer has a ReLU, so no logit is negative."""
    truncate_to_uint8: bool = False
    """Pictures are truncated to 8 bits instead of rounded."""
    regularisers_dropped: bool = False
    """The L2 regularisers are configured but never reach the loss."""
    l2_prefers_far: bool = False
    """With the L2 measure the prior multiplies a distance, which favours far positions."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder (paper, section 3.1; after Mentzer et al., 2018)."""

    features: int = 128
    blocks: int = 5
    channels: int = 32
    centers: int = 6
    importance_map: bool = True
    centers_range: tuple[float, float] = (-2.0, 2.0)
    importance_start: float = 0.0
    """Initial logit of the importance map: below 0, training starts at a low rate."""


@dataclass(frozen=True)
class EdgeConfig:
    """Sizes of the `edge` codec, in features; blocks are (at 1/8 size, at 1/16 size)."""

    rates: int = 8
    fine: int = 160
    coarse: int = 256
    latent: int = 128
    encoder_blocks: tuple[int, int] = (3, 3)
    decoder_blocks: tuple[int, int] = (4, 3)
    hyper: int = 64
    hyper_width: int = 160
    context: int = 128
    step_width: int = 192
    entropy_steps: Literal[2, 4] = 4
    """Parts that a latent is coded in, one after the other."""
    out_kernel: Literal[1, 3] = 3
    """Side of the decoder's last kernel."""
    fusion: int = 192
    fusion_blocks: int = 5
    fusion_out_kernel: Literal[1, 3] = 3
    """Side of the fusion's last kernel."""


@dataclass(frozen=True)
class ContextConfig:
    """Sizes of the causal 3-D context model."""

    features: int = 24


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of the fusion network."""

    features: int = 32
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 1)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms (section 3.3).

    `rate_target` is in bits per pixel; the hinge acts on the entropy per symbol.
    """

    distortion: Literal["mae", "mse", "psnr", "ms_ssim"] = "mae"
    rate_target: float = 0.02
    beta: float = 500.0
    si_weight: float = 0.7
    regularise_autoencoder: float = 0.005
    regularise_centers: float = 0.1


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of training: what is trained, on what, how long and how fast.

    `crop` is (height, width) in pixels; `precision` is Lightning's. With `batch_norm` "settled" the
    moving statistics stay as they are and are used, as at inference. The learning rate falls by
    `decay_factor` each `decay_every_epochs` (the original's staircase), or along a cosine to zero.
    """

    name: str
    ae_only: bool = False
    freeze_autoencoder: bool = False
    batch_norm: Literal["batch", "settled"] = "batch"
    steps: int = 300_000
    batch: int = 1
    crop: tuple[int, int] = (320, 960)
    learning_rate: float = 1e-4
    decay: Literal["steps", "cosine"] = "steps"
    decay_every_epochs: float = 20.0
    decay_factor: float = 0.1
    validate_every_steps: int = 2000
    checkpoint_every_minutes: float = 5.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"


@dataclass(frozen=True)
class Preset:
    """A whole model with its training."""

    family: ClassVar[FamilyName] = "paper"
    name: str = "paper"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    search: SearchOptions = field(default_factory=SearchOptions)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    phases: tuple[PhaseConfig, ...] = ()
    seed: int = 666
    quirks: Quirks = field(default_factory=Quirks)


@dataclass(frozen=True)
class EdgePhase:
    """One phase of training the `edge` model.

    Each batch is of pairs, or, with probability `photo_share`, of pictures without a side image.
    `crop` and `photo_crop` are (height, width) in pixels, multiples of 64. `side_weight` is the
    weight of x_hat against x_dec in the distortion of pairs; with 0 the fusion stays as it is, and
    there are no pairs. With `freeze_codec` only the fusion is trained. The learning rate follows a
    cosine to 3 % of its peak; `average` is the decay of the weights' moving average, which is what
    is validated and kept.
    """

    name: str
    steps: int = 100_000
    batch: int = 8
    crop: tuple[int, int] = (192, 384)
    photo_crop: tuple[int, int] = (256, 256)
    photo_share: float = 1.0
    side_weight: float = 0.0
    freeze_codec: bool = False
    distortion: Literal["mse", "ms_ssim", "appearance"] = "mse"
    learning_rate: float = 3e-4
    average: float = 0.9995
    validate_every_steps: int = 2000
    checkpoint_every_minutes: float = 1.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


@dataclass(frozen=True)
class EdgePreset:
    """A whole `edge` model with its training. `multipliers` are the weights of squared error
    against bits per pixel at the lowest and the highest rate; the others lie evenly between."""

    family: ClassVar[FamilyName] = "edge"
    name: str = "edge"
    model: Literal["edge"] = "edge"
    codec: EdgeConfig = field(default_factory=EdgeConfig)
    search: SearchOptions = field(default_factory=SearchOptions)
    multipliers: tuple[float, float] = (0.9e-4, 9e-3)
    phases: tuple[EdgePhase, ...] = ()
    seed: int = 666

    def __post_init__(self) -> None:
        if reason := self.search.reason_against_blocks():
            raise CheckpointError(f"preset {self.name}: search: {reason}")


AnyPreset = Preset | EdgePreset
_MOVED_QUIRKS = {"stretched_patches": "stretched", "off_centre_prior": "off_centre"}


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files("dsin.training")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_preset(name_or_path: str) -> AnyPreset:
    """The preset of that name, or the one in that TOML file.

    Raises CheckpointError where there is none, or where it has an unknown or ill-typed key.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not is_file(path, CheckpointError):
            raise CheckpointError(f"there is no preset file {path}")
        text = path.read_text(encoding="utf-8-sig")
    elif name_or_path in preset_names():
        text = resources.files("dsin.training").joinpath(name_or_path + ".toml").read_text()
    else:
        known = ", ".join(preset_names())
        raise CheckpointError(f"no preset {name_or_path!r}: use one of {known}, or a .toml file")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"preset {name_or_path} is not valid TOML: {error}") from error
    return preset_from_dict({"name": path.stem, **data})


def preset_to_dict(preset: AnyPreset) -> dict[str, Any]:
    """Plain data for TOML, JSON and checkpoints; `preset_from_dict` inverts it."""
    return dataclasses.asdict(preset)


def preset_from_dict(data: dict[str, Any]) -> AnyPreset:
    """Build a preset, refusing keys it does not have; `model = "edge"` makes it an EdgePreset.

    Raises CheckpointError naming the key.
    """
    kind = EdgePreset if data.get("model") == "edge" else Preset
    return typing.cast(AnyPreset, _build(kind, _with_whole_search(data), "preset"))


def _with_whole_search(data: dict[str, Any]) -> dict[str, Any]:
    """Shipped bundles and older checkpoints have two options of the search among the quirks."""
    quirks, search = data.get("quirks"), data.get("search", {})
    if not isinstance(quirks, dict) or not isinstance(search, dict):
        return data
    moved = {old: new for old, new in _MOVED_QUIRKS.items() if old in quirks}
    return {
        **data,
        "quirks": {name: value for name, value in quirks.items() if name not in moved},
        "search": search | {new: quirks[old] for old, new in moved.items()},
    }


def _build(cls: type[Any], data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise CheckpointError(f"{where} must be a table")
    kinds = typing.get_type_hints(cls)
    hints = {field.name: kinds[field.name] for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise CheckpointError(f"{where} has no key {unknown[0]!r}; it has {', '.join(hints)}")
    required = [f.name for f in dataclasses.fields(cls) if _is_required(f)]
    missing = [name for name in required if name not in data]
    if missing:
        raise CheckpointError(f"{where} has no {missing[0]}: it is required")
    return cls(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = typing.get_args(hint)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) == len(value):
            return tuple(_value(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is Literal and value in typing.get_args(hint):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = ", ".join(map(str, typing.get_args(hint))) if origin is Literal else hint
    raise CheckpointError(f"{where} cannot be {value!r}: expected {expected}")
