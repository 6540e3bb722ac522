"""Frames of the built-in rig as a folder of pairs, for `dsin evaluate` where there is no KITTI.

python tests/benchmarks/rig_pairs.py FOLDER [COUNT]
"""

import sys
from pathlib import Path

from dsin.runtime.files import write_image
from dsin.runtime.sources.synthetic_rig import SyntheticRig


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for frame in SyntheticRig(frames=int(sys.argv[2]) if len(sys.argv) > 2 else 4):
        for side, picture in (("left", frame.left), ("right", frame.right)):
            names.append(f"{frame.number:03}_{side}.png")
            write_image(folder / names[-1], picture)
    (folder / "list.txt").write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    main()
