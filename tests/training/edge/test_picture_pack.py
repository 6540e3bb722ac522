"""Packs of training pictures: what is in them, that they are whole, and what is refused."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import textured_pair
from support.command_line import Run, command_line

from dsin.runtime.errors import FrameError
from dsin.runtime.picture_files import read_image
from dsin.training.edge.picture_pack import MIB, Entry, open_pack, write_pack

MOST = 30 * 1024
LICENCES = {"kitti": "CC BY-NC-SA 3.0", "photos": "research"}


@pytest.fixture
def dsin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs, of which the first is lossless, and two photographs of noise, all 64×96."""
    folder = tmp_path_factory.mktemp("sources")
    for number, suffix in enumerate(("png", "jpg")):
        for side, image in zip(("left", "right"), textured_pair(64, 96, number), strict=True):
            assert cv2.imwrite(str(folder / f"{number}_{side}.{suffix}"), image)
    rng = np.random.default_rng(0)
    for number in range(2):
        photo = rng.integers(0, 256, (64, 96, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"photo_{number}.jpg"), photo)
    return folder


def entries(folder: Path) -> list[Entry]:
    def named(source: str, name: str) -> tuple[str, Path]:
        return f"{source}/{Path(name).stem}.jpg", folder / name

    return [
        Entry("kitti", "val", named("kitti", "0_left.png"), named("kitti", "0_right.png")),
        Entry("kitti", "train", named("kitti", "1_left.jpg"), named("kitti", "1_right.jpg")),
        *(Entry("photos", "train", named("photos", f"photo_{n}.jpg")) for n in range(2)),
    ]


@pytest.fixture
def pack(sources: Path, tmp_path: Path) -> Path:
    """In two parts: the pairs, then the photographs."""
    folder = tmp_path / "pack"
    parts = write_pack(entries(sources), LICENCES, folder, max_mib=MOST / MIB)
    assert [part.pictures for part in parts] == [4, 2]
    return folder


def refused(pack: Path, words: str) -> None:
    with pytest.raises(FrameError, match=words) as raised:
        open_pack(pack, print)
    assert "\n" not in str(raised.value)


def test_pictures_come_back(pack: Path, sources: Path) -> None:
    said: list[str] = []
    data = open_pack(pack, said.append)
    assert said == []
    assert (len(data.pairs), len(data.photos), len(data.validation)) == (1, 2, 1)
    for view, side in zip(data.pairs[0], ("left", "right"), strict=True):
        np.testing.assert_array_equal(view.read(), read_image(sources / f"1_{side}.jpg"))
    for view, side in zip(data.validation[0], ("left", "right"), strict=True):
        exact = read_image(sources / f"0_{side}.png").astype(float)
        assert np.abs(view.read() - exact).mean() < 2, "coded anew, at full colour"
    assert data.notes["licences"] == LICENCES
    assert data.notes["pack"] == [
        part["sha256"] for part in json.loads((pack / "pack.json").read_text())["parts"]
    ]


def test_a_jpeg_file_travels_as_it_is(pack: Path, sources: Path) -> None:
    with tarfile.open(pack / "part-0.tar") as part:
        carried = part.extractfile("kitti/1_left.jpg")
        assert carried is not None
        assert carried.read() == (sources / "1_left.jpg").read_bytes()
        assert all(member.mtime == member.uid == 0 for member in part.getmembers())


def test_no_part_is_larger_than_asked_for(pack: Path) -> None:
    sizes = [path.stat().st_size for path in pack.glob("part-*.tar")]
    assert max(sizes) <= MOST
    assert sum(sizes) > MOST


def test_equal_pictures_give_equal_bytes(sources: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_pack(entries(sources), LICENCES, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["pack.json", "part-0.tar"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_part_that_did_not_travel_is_said(pack: Path) -> None:
    (pack / "part-1.tar").unlink()
    said: list[str] = []
    data = open_pack(pack, said.append)
    assert (len(data.pairs), len(data.photos), len(data.validation)) == (1, 0, 1)
    assert said == [f"{pack / 'part-1.tar'} is not there: training without its 2 pictures"]
    assert data.notes["licences"] == {"kitti": "CC BY-NC-SA 3.0"}
    assert len(data.notes["pack"]) == 1


def test_packs_that_are_not_whole_are_refused(pack: Path, tmp_path: Path) -> None:
    part = pack / "part-1.tar"
    whole = part.read_bytes()
    part.write_bytes(whole[:-512])
    refused(pack, rf"part-1.tar has {len(whole) - 512} of {len(whole)} bytes: copy it again")
    part.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    refused(pack, "part-1.tar has another SHA-256 than pack.json says: copy it again")
    for path in pack.glob("part-*.tar"):
        path.unlink()
    refused(pack, "has none of the 2 parts that pack.json names")
    refused(tmp_path, "has no pack.json: it is not a pack of pictures")


LONELY = {
    "name": "a.jpg", "kind": "left", "side": "b.jpg", "split": "train", "source": "kitti",
    "part": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dsin_pack": 2}, "has another format"),
        ({"parts": [{"file": "../part-0.tar"}]}, "which is not in the same folder"),
        ({"parts": [{"file": "part-0.tar"}]}, "is damaged"),
        ({"pictures": [{}]}, "is damaged"),
        ({"licences": None}, "is damaged"),
        ({"pictures": [LONELY]}, "pack.json has a left picture without its right one"),
        ({"pictures": [LONELY | {"kind": "photo"}]}, "a.jpg of .*part-1.tar is not in that part"),
    ],
)
def test_manifests_that_make_no_sense_are_refused(
    pack: Path, change: dict[str, object], words: str
) -> None:
    manifest = json.loads((pack / "pack.json").read_text())
    (pack / "pack.json").write_text(json.dumps({**manifest, **change}))
    refused(pack, words)


def test_a_manifest_that_is_cut_off_is_refused(pack: Path) -> None:
    text = (pack / "pack.json").read_text()
    (pack / "pack.json").write_text(text[: len(text) // 2])
    refused(pack, "pack.json is damaged")


def test_pictures_that_cannot_be_read_are_named(sources: Path, tmp_path: Path) -> None:
    """When packing, not on the machine that they travel to."""
    folder = tmp_path / "sources"
    shutil.copytree(sources, folder)
    (folder / "photo_1.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(FrameError, match=r"photo_1.jpg is not an image"):
        write_pack(entries(folder), LICENCES, tmp_path / "a")
    cv2.imwrite(str(folder / "0_left.png"), np.zeros((64, 96, 3), np.uint16))
    with pytest.raises(FrameError, match=r"0_left.png is 64x96x3 uint16: an 8-bit colour image"):
        write_pack(entries(folder), LICENCES, tmp_path / "b")
    assert not (tmp_path / "a" / "pack.json").exists()


def test_grey_pictures_become_colour(sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    shutil.copytree(sources, folder)
    cv2.imwrite(str(folder / "photo_1.jpg"), np.full((64, 96), 77, np.uint8))
    write_pack(entries(folder), LICENCES, tmp_path / "p")
    grey = open_pack(tmp_path / "p", print).photos[1].read()
    np.testing.assert_array_equal(grey, np.full((64, 96, 3), 77))


def test_folders_with_something_in_them_and_names_given_twice(
    sources: Path, tmp_path: Path
) -> None:
    with pytest.raises(FrameError, match="not empty: choose another folder"):
        write_pack(entries(sources), LICENCES, sources)
    twice = entries(sources)[2:3] * 2
    with pytest.raises(FrameError, match=r"photos/photo_0.jpg would be in the pack twice"):
        write_pack(twice, LICENCES, tmp_path / "p")
    with pytest.raises(FrameError, match="does not fit in a part"):
        write_pack(entries(sources), LICENCES, tmp_path / "q", max_mib=0.01)


SMALL = """
model = "edge"
[codec]
rates = 3
fine = 16
coarse = 24
latent = 8
encoder_blocks = [1, 1]
decoder_blocks = [1, 1]
hyper = 8
hyper_width = 16
context = 8
step_width = 16
fusion = 16
fusion_blocks = 1
[[phases]]
name = "codec"
steps = 2
batch = 2
photo_crop = [64, 64]
validate_every_steps = 2
"""


def test_training_from_a_pack(
    dsin: Run, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsin.training.edge import train as edge_train

    monkeypatch.setattr(edge_train, "VALIDATION_CROP", (64, 96))
    preset, out, report = tmp_path / "small.toml", tmp_path / "run", tmp_path / "run.json"
    preset.write_text(SMALL)
    done = dsin("train", preset, "--pack", pack, "--out", out, "--json", report, "--budget-s", 900)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1].startswith(f"{out / 'codec' / 'final.pt'}: export it")
    assert json.loads(report.read_text())["phases"][0]["step"] == 2
    from dsin.training.checkpoint import load_edge_checkpoint

    notes = load_edge_checkpoint(out / "codec" / "final.pt")[1]
    assert (notes["pairs"], notes["photographs"]) == (1, 2)
    assert notes["licences"] == LICENCES
    assert notes["weights_licence"] == "kitti: CC BY-NC-SA 3.0; photos: research"

    part = pack / "part-0.tar"
    part.write_bytes(part.read_bytes()[:-1])
    again = dsin("train", preset, "--pack", pack, "--out", tmp_path / "other")
    assert (again.status, again.out) == (1, "")
    assert again.err.count("\n") == 1
    assert "part-0.tar has" in again.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edge", "--pack", "p", "--root", "r"], "--pack contains all pictures: leave out"),
        (["edge", "--pairs", "l"], "needs --pairs, --val and --root, or for edge presets --pack"),
        (["paper", "--pack", "p"], "is not an edge preset, and only those take --pack\n"),
        (["paper", "--budget-s", "9"], "is not an edge preset, and only those take --budget-s\n"),
        (["paper", "--photos", "p"], "trains on pairs only: leave out --photos"),
        (["paper", "--json", "j"], "is not an edge preset, and only those take --json\n"),
        (["paper", "--no-graphs"], "is not an edge preset, and only those take --no-graphs\n"),
    ],
)
def test_options_that_do_not_go_together(dsin: Run, arguments: list[str], words: str) -> None:
    done = dsin("train", *arguments)
    assert (done.status, done.out) == (1, "")
    assert words in done.err


def test_a_preset_without_phases_cannot_be_trained(dsin: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('model = "edge"\n')
    done = dsin("train", tmp_path / "mine.toml", "--pack", "p")
    assert (done.status, done.out) == (1, "")
    assert done.err == "dsin: preset mine has no phases to train\n"


def test_the_command_packs_the_projects_folder(sources: Path, tmp_path: Path) -> None:
    """What is watched first, then KITTI, then the pairs of other worlds and the photographs."""
    data = tmp_path / "data"
    for folder in ("kitti/train", "kitti/val", "pairs", "images", "photos"):
        (data / folder).mkdir(parents=True)
    for side in ("left", "right"):
        shutil.copy(sources / f"0_{side}.png", data / "kitti" / "val")
        shutil.copy(sources / f"1_{side}.jpg", data / "kitti" / "train")
        shutil.copy(sources / f"1_{side}.jpg", data / "pairs" / f"other_{side}.jpg")
    shutil.copy(sources / "photo_0.jpg", data / "images")
    shutil.copy(sources / "photo_1.jpg", data / "photos")
    (data / "kitti" / "val.txt").write_text("val/0_left.png\nval/0_right.png\n")
    (data / "kitti" / "train.txt").write_text("train/1_left.jpg\ntrain/1_right.jpg\n")
    (data / "pairs" / "train.txt").write_text("other_left.jpg\nother_right.jpg\n")
    command = [sys.executable, Path(__file__).parents[2] / "gpu" / "pack.py"]
    out = tmp_path / "pack"
    done = subprocess.run(
        [*command, "--data", data, "--out", out], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{out / 'part-0.tar'}: 0.0 MiB, 8 pictures\n"
    manifest = json.loads((out / "pack.json").read_text())
    assert [(p["name"], p["kind"], p["split"]) for p in manifest["pictures"]] == [
        ("kitti/val/0_left.jpg", "left", "val"),
        ("kitti/val/0_right.jpg", "right", "val"),
        ("kitti/train/1_left.jpg", "left", "train"),
        ("kitti/train/1_right.jpg", "right", "train"),
        ("pairs/other_left.jpg", "left", "train"),
        ("pairs/other_right.jpg", "right", "train"),
        ("images/photo_0.jpg", "photo", "train"),
        ("photos/photo_1.jpg", "photo", "train"),
    ]
    assert manifest["licences"].keys() == {"kitti", "pairs", "images", "photos"}

    again = subprocess.run([*command, "--data", data, "--out", out], capture_output=True, text=True)
    assert again.returncode == 1
    assert (
        again.stderr
        == f"pack.py: {out} exists and is not empty: choose another folder for the pack\n"
    )
