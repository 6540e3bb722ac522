"""Checkpoints of the original: names, layouts, refusals; a real TensorFlow file where it can be."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden.weights import original_weights

from dsin.runtime.errors import CheckpointError
from dsin.training.checkpoint import load_checkpoint
from dsin.training.paper.tf_checkpoint import (
    ENCODER,
    ORIGINAL_QUIRKS,
    import_tf,
    original_names,
    original_to_state_dict,
)

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed: pip install 'dsin[tf-import]'",
)


@pytest.fixture(scope="module")
def variables():
    return original_weights()


def test_every_variable_has_one_place_and_every_place_one_variable(original, variables):
    names = original_names(original)
    assert sorted(names.values()) == sorted(variables)
    counters = {k for k in original.state_dict() if k.endswith("num_batches_tracked")}
    assert set(original.state_dict()) == set(names) | counters


def test_layouts(variables):
    state = original_to_state_dict(variables)
    h1 = variables[ENCODER + "h1/weights"]
    assert state["encoder.h1.conv.weight"][5, 2, 0, 4] == h1[0, 4, 2, 5]
    up = variables["decoder/autoencoder/decoder/h12/weights"]
    assert state["decoder.h12.conv.weight"][7, 3, 1, 2] == up[1, 2, 3, 7]
    context = variables["imgcomp/probclass3d/logits/conv3d_conv2_mask/weights"]
    assert state["context.logits.weight"][5, 9, 1, 0, 2] == context[1, 0, 2, 9, 5]


def test_state_of_the_optimisers_is_left_out(variables):
    slots = {
        "global_step": np.int64(3),
        "beta1_power": np.float32(0.9),
        "beta2_power_1": np.float32(0.999),
        ENCODER + "centers/Adam": np.zeros(6, np.float32),
        ENCODER + "centers/Adam_1": np.zeros(6, np.float32),
    }
    state = original_to_state_dict({**variables, **slots})
    assert state.keys() == original_to_state_dict(variables).keys()


def test_a_missing_variable_is_named(variables):
    some = {k: v for k, v in variables.items() if not k.endswith("h1/weights")}
    with pytest.raises(CheckpointError, match=r"has no variable .*encoder/h1/weights$"):
        original_to_state_dict(some)


def test_the_first_of_several_missing_variables_is_named(variables):
    names = sorted(variables)
    kept = {name: variables[name] for name in names[3:]}
    with pytest.raises(CheckpointError, match=rf"has no variable {names[0]} \(and 2 more\)$"):
        original_to_state_dict(kept)


def test_an_unknown_variable_is_named(variables):
    with pytest.raises(CheckpointError, match=r"unknown variable resnet/conv1$"):
        original_to_state_dict({**variables, "resnet/conv1": np.zeros(3, np.float32)})


def test_another_size_is_refused(variables):
    with pytest.raises(CheckpointError, match=r"centers has shape \(8,\).*expected \(6,\)"):
        original_to_state_dict({**variables, ENCODER + "centers": np.zeros(8, np.float32)})


def test_paths_that_hold_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no TensorFlow checkpoint"):
        import_tf(tmp_path / "model-1", tmp_path / "out.pt")
    with pytest.raises(CheckpointError, match="no file 'checkpoint'"):
        import_tf(tmp_path, tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())


def test_without_tensorflow_the_install_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "model-1.index").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CheckpointError, match=r"pip install 'dsin\[tf-import\]'"):
        import_tf(tmp_path / "model-1", tmp_path / "out.pt")


@pytest.fixture
def reader(monkeypatch, variables):
    """In TensorFlow's place: a reader of "model-100" alone. Yields the paths asked for."""
    asked = []

    def load_checkpoint(path):
        asked.append(path)
        if not path.endswith("model-100"):
            raise ValueError("unsuccessful: DATA_LOSS\nand a trace")
        kept = {**variables, "global_step": np.int64(3)}
        return SimpleNamespace(get_variable_to_shape_map=lambda: kept, get_tensor=kept.get)

    errors = SimpleNamespace(OpError=OSError)
    train = SimpleNamespace(load_checkpoint=load_checkpoint)
    for name, module in {"errors": errors, "train": train}.items():
        monkeypatch.setitem(sys.modules, f"tensorflow.{name}", module)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(errors=errors, train=train))
    return asked


@pytest.mark.parametrize("given", ["", "model-100", "model-100.index"])
def test_what_a_reader_of_tensorflows_files_yields(original, reader, tmp_path, given):
    (tmp_path / "model-100.index").write_bytes(b"")
    (tmp_path / "checkpoint").write_text(
        'all_model_checkpoint_paths: "model-90"\nmodel_checkpoint_path: "/elsewhere/model-100"\n'
    )
    out = import_tf(tmp_path / given, tmp_path / "original.pt")
    assert reader == [str(tmp_path / "model-100")]
    model, notes = load_checkpoint(out)
    assert notes == {"source": "TensorFlow checkpoint model-100 of the original implementation"}
    for key, value in original.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)


def test_what_the_reader_refuses_is_one_line(reader, tmp_path):
    (tmp_path / "model-1.index").write_bytes(b"not an index")
    with pytest.raises(CheckpointError) as caught:
        import_tf(tmp_path / "model-1", tmp_path / "out.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'model-1'} is not a readable TensorFlow checkpoint: unsuccessful: DATA_LOSS"
    )
    assert not (tmp_path / "out.pt").exists()


@pytest.fixture(scope="module")
def tf_folder(variables, tmp_path_factory) -> Path:
    """A checkpoint as the original's Saver writes it, state of the optimiser included."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("tf")
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        for name, value in variables.items():
            tf1.get_variable(name, initializer=value)
        tf1.get_variable(ENCODER + "centers/Adam", initializer=np.zeros(6, np.float32))
        tf1.get_variable("beta1_power", initializer=np.float32(0.9))
        tf1.train.create_global_step()
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(folder / "model"), global_step=100)
    return folder


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["", "model-100", "model-100.index"])
def test_a_tensorflow_checkpoint(original, tf_folder, tmp_path, name):
    out = import_tf(tf_folder / name, tmp_path / "original.pt")
    model, notes = load_checkpoint(out)
    assert model.preset.quirks == ORIGINAL_QUIRKS
    assert "model-100" in notes["source"]
    for key, value in original.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=0, atol=0)


@needs_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_tensorflow_checkpoint_is_refused(tmp_path):
    (tmp_path / "model-1.index").write_bytes(b"not an index")
    with pytest.raises(CheckpointError, match="not a readable TensorFlow checkpoint"):
        import_tf(tmp_path / "model-1", tmp_path / "out.pt")


UV = shutil.which("uv", path=str(Path(sys.executable).parent))
CONSTRAINTS = Path(__file__).resolve().parents[3] / ".ci" / "constraints.txt"


@pytest.mark.skipif(UV is None, reason="uv is not installed")
@pytest.mark.skipif(
    os.environ.get("DSIN_BOUNDS") != "1",
    reason="TensorFlow is a gigabyte and not installed with the tests: set DSIN_BOUNDS=1",
)
def test_a_checkpoint_that_tensorflow_wrote(tmp_path):
    """The tests above with TensorFlow beside the other packages, in a folder of its own."""
    packages = tmp_path / "packages"
    install = [
        UV, "pip", "install", "-q", "--python", sys.executable, "--target", packages,
        "--constraint", CONSTRAINTS, "tensorflow-cpu>=2.18",
    ]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "DSIN_BOUNDS"))}
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp",
        tmp_path / "tests", __file__, "-k", "tensorflow_checkpoint",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**own, "PYTHONPATH": str(packages)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "skipped" not in done.stdout
