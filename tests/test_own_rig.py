"""The five commands of `.docs/own_rig.md`, from a bag to figures, with a small model."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from support.bags import Shot, write_bag

from dsin.export.cli import app as export_app
from dsin.runtime import open_bundle
from dsin.runtime.commands.cli import app
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.training.edge import step as edge_step
from dsin.training.edge import train as edge_train

PAGE = Path(__file__).resolve().parents[1] / ".docs" / "own_rig.md"
PRESET = """
name = "tiny"
model = "edge"
[codec]
{codec}
[[phases]]
name = "joint"
steps = 2
batch = 2
crop = [64, 128]
photo_crop = [64, 64]
photo_share = 0.3
side_weight = 0.8
learning_rate = 2e-4
validate_every_steps = 2
"""

pytestmark = [
    # Lightning's own use of its dependencies.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*"),
]


def write_drive(folder: Path) -> None:
    """A ROS 2 bag with 31 pictures of each of two cameras."""
    shots = []
    rig = SyntheticRig(width=192, height=128, frames=4)
    for number in range(31):
        frame = rig.frame(number % 4)
        stamp = 10**9 + number * 10**8
        for topic, view in (("/left/image_raw", frame.left), ("/right/image_raw", frame.right)):
            shots.append(Shot(topic, stamp, view))
    write_bag(folder / "drive", shots, "mcap")


def test_five_commands_from_a_bag_to_figures(
    edge_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As the page has them; only the model and its schedule are smaller."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(edge_train, "VALIDATION_CROP", (80, 96))
    monkeypatch.setattr(edge_step, "WARM_UP", 1)
    write_drive(tmp_path)
    codec = dataclasses.asdict(SMALL).items()
    text = PRESET.format(codec="\n".join(f"{name} = {json.dumps(v)}" for name, v in codec))
    Path("tiny.toml").write_text(text)
    block = re.search(r"<!-- own rig -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    assert len(lines) == 5
    apps: dict[str, Any] = {"dsin": app, "dsin-export": export_app}
    for line in lines:
        changed = line.replace("checkpoint edge ", f"checkpoint {edge_bundle} ")
        program, *words = shlex.split(changed.replace("edge_tune", "tiny.toml"))
        apps[program](words, standalone_mode=False)
    assert (tmp_path / "rig" / "train.txt").read_text().split() == [
        f"{camera}/{number:06d}.png" for number in (0, 10, 20) for camera in ("x", "y")
    ]
    assert open_bundle("my-edge").codec_id != open_bundle(edge_bundle).codec_id
    assert "1 images with my-edge" in capsys.readouterr().out
