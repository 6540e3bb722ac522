"""A checkpoint comes home in parts, and only whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_parts import MIB, PartsError, join, split

DATA = bytes(range(256)) * 10


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with DATA in three parts of 1000 bytes."""
    source = tmp_path / "average.pt"
    source.write_bytes(DATA)
    folder = tmp_path / "parts"
    folder.mkdir()
    made = split(source, folder, part_bytes=1000)
    assert [(p.name, p.stat().st_size) for p in made] == [
        ("checkpoint.part0", 1000), ("checkpoint.part1", 1000), ("checkpoint.part2", 560)
    ]  # fmt: skip
    return folder


def test_parts_join_to_what_was_split(parts: Path) -> None:
    assert join(parts).read_bytes() == DATA
    assert (parts / "average.pt").is_file()
    assert join(parts, parts / "other.pt") == parts / "other.pt"


def test_the_program_joins_them_too(parts: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("checkpoint_parts.py")), str(parts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).read_bytes() == DATA
    (parts / "checkpoint.part1").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (
        1, f"{parts / 'checkpoint.part1'} is missing: copy it too"
    )  # fmt: skip


def test_a_smaller_checkpoint_takes_the_place_of_a_larger(parts: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.pt"
    small.write_bytes(b"abc")
    split(small, parts)
    assert sorted(p.name for p in parts.iterdir()) == ["checkpoint.json", "checkpoint.part0"]
    assert join(parts).read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "cut off or altered"), (DATA[:1000][::-1], "checkpoint.part0 is cut off or altered")],
)
def test_a_damaged_part_is_named(parts: Path, data: bytes, message: str) -> None:
    (parts / "checkpoint.part0").write_bytes(data)
    with pytest.raises(PartsError, match=message):
        join(parts)
    assert not (parts / "average.pt").exists()


def test_parts_of_two_checkpoints_do_not_join(parts: Path) -> None:
    manifest = json.loads((parts / "checkpoint.json").read_text())
    manifest["sha256"] = "0" * 64
    (parts / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(PartsError, match="are of different checkpoints: copy all again"):
        join(parts)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a"}'])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(PartsError, match=r"has no usable checkpoint.json"):
        join(tmp_path)


def test_what_does_not_fit_beside_the_results_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.pt"
    large.write_bytes(b"")
    with large.open("r+b") as file:
        file.truncate(46 * MIB)
    with pytest.raises(PartsError, match=r"large.pt has 46.0 MiB, more than the 45 that fit"):
        split(large, tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))
