"""What `open_session` refuses, whatever the graph."""

from pathlib import Path
from typing import Any

import pytest

from dsin.runtime.backends.session import open_session
from dsin.runtime.errors import BackendError


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backend": "tpu"}, "there is no backend 'tpu': use cpu"),
        ({"threads": 0}, "a session needs at least 1 thread, not 0"),
        ({}, "onnxruntime cannot load .*absent.onnx: "),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BackendError, match=told):
        open_session(tmp_path / "absent.onnx", **options)
