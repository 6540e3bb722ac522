"""The notebook under `.docs` runs from its first cell to its last, and shows what it says."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).resolve().parents[1] / ".docs" / "first_steps.ipynb"


def read() -> Any:
    return nbformat.read(FILE, as_version=4)


def test_it_is_kept_without_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), "clear the outputs"
        assert cell.get("execution_count") is None


@pytest.mark.filterwarnings("default")  # those of Jupyter are not ours
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = read()
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "bits per pixel" in text
    pictures = [o for o in outputs if o.output_type == "display_data" and "image/png" in o.data]
    assert len(pictures) == 2
    (curve,) = (o.data["text/plain"] for o in outputs if o.output_type == "execute_result")
    rates, beside, alone = zip(*ast.literal_eval(curve), strict=True)
    assert len(rates) == 8
    assert list(rates) == sorted(rates)
    assert sum(beside) > sum(alone) + 8
