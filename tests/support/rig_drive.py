"""The built-in rig as a KITTI raw drive."""

from pathlib import Path

import cv2

from dsin.runtime.sources.synthetic_rig import SyntheticRig


def write_drive(rig: SyntheticRig, folder: Path, interval_ms: int) -> Path:
    """The rig's frames as a KITTI raw drive, one every so many milliseconds; returns `folder`."""
    for camera, side in (("image_02", "left"), ("image_03", "right")):
        (folder / camera / "data").mkdir(parents=True)
        for frame in rig:
            picture = frame.left if side == "left" else frame.right
            path = folder / camera / "data" / f"{frame.number:010d}.png"
            assert cv2.imwrite(str(path), picture[:, :, ::-1])
        times = [divmod(interval_ms * n, 1000) for n in range(len(rig))]
        lines = [f"2011-09-26 13:02:{20 + s}.{ms:03}000000\n" for s, ms in times]
        (folder / camera / "timestamps.txt").write_text("".join(lines))
    return folder
