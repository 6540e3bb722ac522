"""Loss curves from Lightning's CSV log."""

import csv
from collections import defaultdict
from pathlib import Path


def plot_curves(logs: list[Path], png: Path) -> None:
    """Draw every logged quantity over the steps, one panel each; a resumed run has several logs.

    A run that was too short to log anything has no picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    if value and key not in ("step", "epoch"):
                        series[key].append((int(row["step"]), float(value)))
    names = sorted(series)
    if not names:
        return
    figure, axes = plt.subplots(len(names), 1, figsize=(8, 2 * len(names)), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.plot(*zip(*sorted(series[name]), strict=True), linewidth=0.8)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(png, dpi=100)
    plt.close(figure)
