"""A tiny data pack of the built-in rig's frames, made by the pack's own command."""

import subprocess
import sys
from pathlib import Path

from stage import NotCarriedError, Orders
from visit_layout import CHECKOUT

FRAMES = 4


def rehearsal_pack(orders: Orders) -> Path:
    """The folder of the pack, made if it is not there yet. Raises NotCarriedError for a checkout
    without the command, RuntimeError with what it says where it fails."""
    command = CHECKOUT / "tests" / "gpu" / "pack.py"
    if not command.is_file():
        raise NotCarriedError("this checkout has no tests/gpu/pack.py")
    out = orders.work / "pack"
    if (out / "pack.json").is_file():
        return out
    data = orders.work / "data"
    _lay_out(data)
    done = subprocess.run(
        [sys.executable, str(command), "--data", str(data), "--out", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError(f"pack.py: {done.stderr.strip().splitlines()[-1:]}")
    return out


def _lay_out(data: Path) -> None:
    """As the project's data lie: pairs with their lists, and photographs."""
    from dsin.runtime.files import write_image
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    for folder in ("kitti", "pairs", "images", "photos"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {"kitti/val": [], "kitti/train": [], "pairs/train": []}
    for frame in SyntheticRig(frames=FRAMES):
        name = "kitti/val" if frame.number == 0 else "kitti/train"
        name = "pairs/train" if frame.number == FRAMES - 1 else name
        root = data / name.split("/")[0]
        for side, picture in (("left", frame.left), ("right", frame.right)):
            lists[name].append(f"{frame.number}_{side}.png")
            write_image(root / lists[name][-1], picture)
        for folder in ("images", "photos"):
            write_image(data / folder / f"{frame.number}.png", frame.left)
    for name, files in lists.items():
        (data / f"{name}.txt").write_text("\n".join(files) + "\n")
