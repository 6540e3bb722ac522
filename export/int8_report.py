"""The calibration report as a picture: which layers do harm, and the curves before and after."""

from pathlib import Path
from typing import Any

SHOWN = 12
"""Layers of each graph."""


def plot_report(report: dict[str, Any], path: Path) -> None:
    """Draw the most harmful layers of each graph, and rate-distortion curves if there are any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    graphs = report["graphs"]
    points = report.get("points")
    count = len(graphs) + bool(points)
    figure, panels = pyplot.subplots(
        1, count, figsize=(4.4 * count, 4.2), constrained_layout=True, squeeze=False
    )
    for panel, (name, graph) in zip(panels[0], graphs.items(), strict=False):
        measured = [layer for layer in graph["layers"] if layer["harm"] is not None]
        worst = sorted(measured, key=lambda layer: -layer["harm"])[:SHOWN][::-1]
        colours = ["C1" if layer["in_float"] else "C0" for layer in worst]
        panel.barh([layer["name"] for layer in worst], [100 * layer["harm"] for layer in worst],
                   color=colours)  # fmt: skip
        panel.set(title=f"{name}: error {100 * graph['relative_error']:.2g} %",
                  xlabel="share of all error, % (orange: left in float)")  # fmt: skip
        panel.tick_params(axis="y", labelsize=7)
    if points:
        for name, curve in points.items():
            panels[0, -1].plot(
                [p["bpp"] for p in curve], [p["psnr_db"] for p in curve], ".-", label=name
            )
        rate = report["bd_rate_percent"]["psnr"]
        shown = "" if rate is None else f": {rate:+.2f} % BD-rate"
        panels[0, -1].set(title=f"float and int8{shown}", xlabel="bits per pixel",
                          ylabel="PSNR (dB)")  # fmt: skip
        panels[0, -1].legend()
        panels[0, -1].grid(alpha=0.3)
    figure.savefig(path, dpi=100, format="png")
    pyplot.close(figure)
