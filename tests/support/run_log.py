"""Values that a training run wrote to its log."""

import csv
from pathlib import Path


def logged(folder: Path, key: str) -> list[tuple[int, float]]:
    values = []
    for log in folder.glob("log*/metrics.csv"):
        with log.open(newline="") as file:
            values += [(int(r["step"]), float(r[key])) for r in csv.DictReader(file) if r.get(key)]
    return sorted(values)
