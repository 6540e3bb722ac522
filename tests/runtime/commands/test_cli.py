"""The command line: what it writes, its exit status, and what it must not import."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.block_bundle import read_manifest, write_block_bundle, write_manifest
from support.command_line import Outcome, Run, command_line

from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.codec.packet import MAX_PAYLOAD, Packet, Reference
from dsin.runtime.commands import demo
from dsin.runtime.errors import DsinError
from dsin.runtime.picture_files import read_image
from dsin.runtime.sources import compile_ahead


@pytest.fixture
def dsin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""
    return command_line(monkeypatch, capfd)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("cli") / "blocks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two views and a packet of the first."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        blocks = rng.integers(0, 256, (11, 25, 3)).astype(np.uint8)
        image = blocks.repeat(16, 0).repeat(16, 1)
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    return tmp_path


def user_error(outcome: Outcome, *words: object) -> None:
    """The contract for what the user can mend: status 1, one line on stderr, nothing else."""
    assert outcome.status == 1
    assert outcome.out == ""
    assert outcome.err.startswith("dsin: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert str(word) in outcome.err


class TestEncodeAndDecode:
    def test_a_picture_goes_through(self, dsin: Run, folder: Path, bundle: Path) -> None:
        left, right = folder / "left.png", folder / "right.png"
        done = dsin("encode", left, "--bundle", bundle, "--rate", 0)
        assert (done.status, done.err) == (0, "")
        packet = folder / "left.dsin"
        assert f"{packet}: {packet.stat().st_size} bytes" in done.out
        with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
            assert packet.read_bytes() == bytes(encoder.encode(read_image(left), 0))
            expected = decoder.decode(packet.read_bytes(), read_image(right)).image
            alone = decoder.decode(packet.read_bytes(), None).image
        left.unlink()
        beside = dsin("decode", packet, "--side", right, "--bundle", bundle)
        assert beside.status == 0
        assert "with the side image" in beside.out
        assert np.array_equal(read_image(left), expected)
        target = folder / "alone.png"
        done = dsin("decode", packet, "--no-side", "-o", target, "--bundle", bundle)
        assert done == (0, f"{target}: 400x176\n", "")
        assert np.array_equal(read_image(target), alone)

    def test_a_side_image_is_what_compilation_goes_ahead_for(
        self, dsin: Run, folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the packet itself, decoded alone."""
        seen: list[Decoded] = []
        monkeypatch.setattr(
            compile_ahead,
            "compile_ahead",
            lambda: nullcontext(lambda entropy: seen.append(entropy())),
        )
        dsin("encode", folder / "left.png", "--bundle", bundle)
        sides = (("--no-side",), ("--side", folder / "right.png"))
        for number, side in enumerate(sides):
            target = folder / f"{number}.png"
            done = dsin("decode", folder / "left.dsin", *side, "-o", target, "--bundle", bundle)
            assert (done.status, len(seen)) == (0, number)
        (ahead,) = seen
        assert not ahead.used_side
        assert np.array_equal(ahead.image, read_image(folder / "0.png"))

    def test_the_original_is_not_overwritten(self, dsin: Run, folder: Path, bundle: Path) -> None:
        left = folder / "left.png"
        original = left.read_bytes()
        dsin("encode", left, "--bundle", bundle)
        done = dsin("decode", folder / "left.dsin", "--no-side", "--bundle", bundle)
        user_error(done, "left.png exists: name the output with -o")
        assert left.read_bytes() == original

    @pytest.mark.parametrize("sides", [[], ["--no-side", "--side", "right.png"]])
    def test_decoding_needs_one_of_side_and_no_side(self, dsin: Run, sides: list[str]) -> None:
        done = dsin("decode", "x.dsin", *sides)
        assert done.status == 2
        assert "give either --side IMAGE or --no-side" in done.err

    @pytest.mark.parametrize("output", ["absent/x.dsin", "."])
    def test_unwritable_output(self, dsin: Run, folder: Path, bundle: Path, output: str) -> None:
        before = sorted(folder.iterdir())
        done = dsin("encode", folder / "left.png", "-o", folder / output, "--bundle", bundle)
        user_error(done, "cannot write", (folder / output).resolve())
        assert sorted(folder.iterdir()) == before

    @pytest.mark.parametrize("output", ["absent/x.png", "x.xyz", "x"])
    def test_an_unwritable_picture_is_found_out_before_the_work(
        self, dsin: Run, folder: Path, output: str
    ) -> None:
        """Nothing else is there to be read either, and would be told later."""
        done = dsin("decode", folder / "absent.dsin", "--no-side", "-o", folder / output)
        user_error(done, "cannot write", output)

    def test_an_unwritable_packet_is_found_out_before_the_work(
        self, dsin: Run, folder: Path
    ) -> None:
        done = dsin("encode", folder / "absent.png", "-o", folder / "absent" / "x.dsin")
        user_error(done, "cannot write", "its folder does not exist")

    def test_a_picture_of_no_known_format(self, dsin: Run, folder: Path, bundle: Path) -> None:
        dsin("encode", folder / "left.png", "--bundle", bundle)
        packet, target = folder / "left.dsin", folder / "x.xyz"
        done = dsin("decode", packet, "--no-side", "-o", target, "--bundle", bundle)
        user_error(done, "cannot write", "x.xyz")
        assert not target.exists()

    def test_images_that_cannot_be_used(self, dsin: Run, folder: Path, bundle: Path) -> None:
        color = np.zeros((40, 48, 3), np.uint8)
        cv2.imwrite(str(folder / "deep.png"), color.astype(np.uint16))
        (folder / "text.png").write_text("text")
        (folder / "cut.png").write_bytes((folder / "left.png").read_bytes()[:200])
        for name in ("deep.png", "text.png", "cut.png", "absent.png", "."):
            done = dsin("encode", folder / name, "-o", folder / "out", "--bundle", bundle)
            user_error(done, folder / name)
            assert not (folder / "out").exists()

    def test_a_grey_picture_is_coded_as_one_of_colour(
        self, dsin: Run, folder: Path, bundle: Path
    ) -> None:
        grey = cv2.imread(str(folder / "left.png"), cv2.IMREAD_GRAYSCALE)
        assert cv2.imwrite(str(folder / "grey.png"), grey)
        assert cv2.imwrite(str(folder / "same.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
        for name in ("grey", "same"):
            assert dsin("encode", folder / f"{name}.png", "--bundle", bundle).status == 0
        packets = [(folder / f"{name}.dsin").read_bytes() for name in ("grey", "same")]
        assert packets[0] == packets[1]

    def test_a_side_image_of_another_size(self, dsin: Run, folder: Path, bundle: Path) -> None:
        cv2.imwrite(str(folder / "small.png"), np.zeros((40, 48, 3), np.uint8))
        dsin("encode", folder / "left.png", "--bundle", bundle)
        side, packet = folder / "small.png", folder / "left.dsin"
        done = dsin("decode", packet, "--side", side, "-o", folder / "o.png", "--bundle", bundle)
        user_error(done, "side image is 48x40, but the packet is of 400x176")
        assert not (folder / "o.png").exists()

    def test_packets_that_cannot_be_used(self, dsin: Run, folder: Path, bundle: Path) -> None:
        dsin("encode", folder / "left.png", "--bundle", bundle)
        packet = (folder / "left.dsin").read_bytes()
        spoilt = {
            "empty": b"",
            "cut": packet[:-1],
            "flipped": packet[:-1] + bytes([packet[-1] ^ 1]),
            "oversized": packet + bytes(MAX_PAYLOAD),
            "foreign": (folder / "left.png").read_bytes(),
        }
        for name, data in spoilt.items():
            (folder / name).write_bytes(data)
        for name in (*spoilt, "absent", "."):
            target = folder / "out.png"
            done = dsin("decode", folder / name, "--no-side", "-o", target, "--bundle", bundle)
            user_error(done)
            assert not target.exists()

    def test_a_packet_of_another_bundle(self, dsin: Run, folder: Path, bundle: Path) -> None:
        other = write_block_bundle(folder / "other", model_id="cd" * 32)
        dsin("encode", folder / "left.png", "-o", folder / "x.dsin", "--bundle", other)
        done = dsin("decode", folder / "x.dsin", "--no-side", "--bundle", bundle)
        user_error(done, "packet was made by another bundle")

    def test_bundles_and_rates_that_are_not_there(
        self, dsin: Run, folder: Path, bundle: Path
    ) -> None:
        left = folder / "left.png"
        user_error(dsin("encode", left, "--bundle", "nix"), "there is no bundle nix")
        user_error(dsin("encode", left, "--bundle", bundle, "--rate", 7), "rates 0 to 1, not 7")
        assert dsin("encode", left, "--bundle", bundle, "--rate", -1).status == 2

    def test_a_backend_that_is_not_there(self, dsin: Run, folder: Path, bundle: Path) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this machine has CUDA")
        done = dsin("encode", folder / "left.png", "--bundle", bundle, "--backend", "cuda")
        user_error(done, "CUDAExecutionProvider", "pip install 'dsin[gpu]'")

    @pytest.mark.parametrize("name", ["tensorrt", "tensorrt-fp16"])
    def test_tensorrt_that_is_not_there(
        self, dsin: Run, folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        done = dsin("encode", folder / "left.png", "--bundle", bundle, "--backend", name)
        user_error(done, "tensorrt is not installed: pip install 'dsin[tensorrt]'")


class TestInfo:
    def test_of_a_packet_from_a_pipe(self, dsin: Run, folder: Path, bundle: Path) -> None:
        dsin("encode", folder / "left.png", "--bundle", bundle)
        packet = folder / "left.dsin"
        reading, writing = os.pipe()
        os.write(writing, packet.read_bytes())
        os.close(writing)
        facts = json.loads(dsin("info", f"/dev/fd/{reading}", "--json").out)
        os.close(reading)
        assert facts["bytes"] == packet.stat().st_size

    def test_of_a_packet(self, dsin: Run, folder: Path, bundle: Path) -> None:
        dsin("encode", folder / "left.png", "--bundle", bundle)
        packet = folder / "left.dsin"
        coded = Packet.parse(packet.read_bytes())
        header = coded.header
        facts = json.loads(dsin("info", packet, "--json").out)
        assert facts == {
            "packet": str(packet),
            "format": 1,
            "codec_id": header.codec_id.hex(),
            "width": 400,
            "height": 176,
            "rate": 1,
            "frame_number": 0,
            "timestamp_ns": 0,
            "reference": None,
            "bytes": packet.stat().st_size,
            "payload_bytes": len(coded.payload),
            "bpp": round(8 * packet.stat().st_size / (400 * 176), 6),
        }
        lines = dsin("info", packet).out.splitlines()
        assert "width          400" in lines
        assert "reference      none" in lines
        assert len(lines) == len(facts)
        packet.write_bytes(bytes(Packet(replace(header, reference=Reference(17, 5)), b"payload")))
        lines = dsin("info", packet).out.splitlines()
        assert "format         2" in lines
        assert "reference      17" in lines
        user_error(
            dsin("decode", packet, "--no-side", "--bundle", bundle, "-o", folder / "no.png"),
            f"{packet} says only what has changed since frame 17",
            "--independent",
        )

    def test_of_a_bundle(self, dsin: Run, bundle: Path) -> None:
        facts = json.loads(dsin("info", bundle, "--json").out)
        assert facts["latent"] == "3 channels, stride 8, 6 centres, causal context model"
        assert facts["target_bpp"] == [0.06, 0.1]
        assert facts["bytes"] == sum(f["bytes"] for f in read_manifest(bundle)["files"].values())
        lines = dsin("info", bundle, "--verbose").out.splitlines()
        assert "weights licence    MIT" in lines
        assert len(lines) == len(facts)

    def test_a_bundle_in_few_lines(self, dsin: Run, bundle: Path) -> None:
        lines = dsin("info", bundle).out.splitlines()
        assert [" ".join(line.split()) for line in lines] == [
            "bundle blocks",
            f"folder {bundle}",
            "family paper",
            "latent 3 channels, stride 8, 6 centres, causal context model",
            "rates 0.06, 0.1 bits per pixel",
            "default rate 1, of 0 to 1",
            "frames any size, padded to multiples of 24x40",
            "networks float, 0.0 MB",
            "looks faithful",
            f"codec id {open_bundle(bundle).codec_id.hex()}",
            "weights licence MIT",
        ]
        assert str(open_bundle(bundle)).splitlines() == lines

    def test_of_something_else(self, dsin: Run, folder: Path, tmp_path: Path) -> None:
        user_error(dsin("info", folder / "left.png"), "not a dsin packet")
        user_error(dsin("info", folder / "absent"), "there is no bundle")
        user_error(dsin("info", folder / "absent.dsin"), "cannot read")
        broken = write_block_bundle(tmp_path / "broken")
        write_manifest(broken, {**read_manifest(broken), "format": 3})
        user_error(dsin("info", broken), "format 3")


class TestOtherRooms:
    def test_evaluate_measures_real_packets(self, dsin: Run, folder: Path, bundle: Path) -> None:
        (folder / "list.txt").write_text("left.png\nright.png\n")
        done = dsin(
            "evaluate", "--pairs", folder / "list.txt", "--root", folder, "--bundle", bundle,
            "--rate", 0, "--crop", "160x240", "--json", folder / "figures.json",
            "--save-images", folder / "pictures",
        )  # fmt: skip
        assert done.status == 0
        report = json.loads((folder / "figures.json").read_text())
        (image,) = report["images"]
        assert (image["width"], image["height"]) == (240, 160)
        assert image["bpp"] == 8 * image["bytes"] / (160 * 240)
        assert len(list((folder / "pictures").glob("*.png"))) == 4

    @pytest.mark.parametrize("crop", ["320", "axb", "320x", "x", "3.5x4", "-3x4"])
    def test_a_crop_is_height_by_width(self, dsin: Run, crop: str) -> None:
        done = dsin("evaluate", "--pairs", "l", "--root", "r", "--crop", crop)
        assert done.status == 2

    def test_a_list_with_a_missing_file(self, dsin: Run, folder: Path, bundle: Path) -> None:
        (folder / "list.txt").write_text("left.png\nabsent.png\n")
        lists = ["--pairs", folder / "list.txt", "--root", folder]
        user_error(dsin("evaluate", *lists, "--bundle", bundle), "absent.png")
        train = ["train", "paper", "--val", folder / "list.txt", "--out", folder / "run"]
        user_error(dsin(*train, *lists), "absent.png")
        assert not (folder / "run").exists()

    def test_training_refuses_an_unknown_preset(self, dsin: Run, folder: Path) -> None:
        lists = ["--pairs", "l", "--val", "l", "--root", folder]
        user_error(dsin("train", "nix", *lists), "no preset 'nix'", "paper")

    def test_a_tensorflow_checkpoint_that_is_not_there(self, dsin: Run, folder: Path) -> None:
        done = dsin("import-tf", folder / "absent", "-o", folder / "x.pt")
        user_error(done, "absent")

    def test_the_demo_gets_what_was_asked_for(
        self, dsin: Run, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        asked: list[tuple[object, ...]] = []
        monkeypatch.setattr(
            demo,
            "run_demo",
            lambda *a, kbps, fps, web, side, foxglove, trace: asked.append(
                (*a, kbps, fps, web, side)
            ),
        )
        dsin("demo")
        dsin("demo", "--kitti", folder, "--frames", 3, "--bundle", "b", "--rate", 1,
             "--out", folder / "out", "--json", folder / "j")  # fmt: skip
        dsin("demo", "--kbps", 250, "--fps", 5, "--web", 8080)
        dsin("demo", "--source", "a.mp4", "--side", "b.mp4")
        assert asked == [
            (None, None, None, None, Path("dsin-demo"), None, "cpu", None, None, None, None),
            (folder, 3, "b", 1, folder / "out", folder / "j", "cpu", None, None, None, None),
            (None, None, None, None, Path("dsin-demo"), None, "cpu", 250.0, 5.0, 8080, None),
            ("a.mp4", None, None, None, Path("dsin-demo"), None, "cpu", None, None, None, "b.mp4"),
        ]


class TestContract:
    def test_an_error_of_several_lines_becomes_one(
        self, dsin: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise DsinError("first\n  second")

        monkeypatch.setattr(demo, "run_demo", fail)
        assert dsin("demo") == (1, "", "dsin: first second\n")

    def test_an_internal_fault_keeps_its_traceback(
        self, dsin: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(demo, "run_demo", fail)
        with pytest.raises(ZeroDivisionError):
            dsin("demo")

    @pytest.mark.parametrize(
        "arguments", [["nix"], ["encode"], ["encode", "x", "--nix"], ["encode", "x", "--rate", "x"],
                      ["encode", "x", "--backend", "tpu"], ["demo", "--frames", "0"],
                      ["demo", "--rate", "1", "--kbps", "200"]]
    )  # fmt: skip
    def test_wrong_usage_exits_with_2(self, dsin: Run, arguments: list[str]) -> None:
        assert dsin(*arguments).status == 2

    def test_the_commands_of_the_contract_exist(self, dsin: Run) -> None:
        commands = "encode", "decode", "info", "demo", "profile", "evaluate", "train", "import-tf"
        shown = dsin("--help").out
        for command in commands:
            assert f"  {command} " in shown
            assert dsin(command, "--help").status == 0

    def test_the_version_is_printed(self, dsin: Run) -> None:
        done = dsin("--version")
        assert done.status == 0
        assert done.out.startswith("dsin")


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    program = f"{code}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


HELP = """
import sys
from dsin.runtime.commands.cli import main
sys.argv = ["dsin", "--help"]
try:
    main()
except SystemExit:
    pass
"""
HEAVY = {"numpy", "cv2", "numba", "onnxruntime", "onnx", "torch", "lightning", "tensorrt"}


class TestImports:
    def test_help_loads_nothing_heavy(self) -> None:
        assert not loaded_after(HELP) & HEAVY

    def test_the_codec_loads_no_training_framework(self) -> None:
        loaded = loaded_after("from dsin.runtime import Encoder, Decoder, open_bundle")
        assert "numpy" in loaded
        assert not loaded & {"torch", "onnx", "onnxruntime", "tensorrt", "lightning"}

    def test_this_test_can_fail(self) -> None:
        assert {"numpy"} == loaded_after("import numpy") & HEAVY

    def test_a_missing_extra_is_named(self, folder: Path) -> None:
        # None in sys.modules makes an import fail as if the package were not installed.
        program = (
            "import sys; sys.modules['torch'] = None\n"
            "from dsin.runtime.commands.cli import main\n"
            "sys.argv = ['dsin', 'train', 'paper', '--pairs', 'l', '--val', 'l', '--root', 'r']\n"
            "main()"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        user_error(Outcome(done.returncode, done.stdout, done.stderr), "pip install 'dsin[train]'")

    def test_the_public_names_exist_and_no_others(self) -> None:
        import dsin.runtime as runtime

        assert sorted(runtime.__all__) == runtime.__all__
        for name in runtime.__all__:
            assert getattr(runtime, name).__name__ == name
            assert name in dir(runtime)
        with pytest.raises(AttributeError, match="no attribute 'nix'"):
            _ = runtime.nix


@pytest.mark.parametrize(
    "command",
    [
        "info {}", "encode {}", "decode {} --no-side -o x.png", "encode left.png --bundle {}",
        "stream 127.0.0.1:9 --plaintext --source {}",
        "serve 127.0.0.1:0 --plaintext --side {}", "replay {}",
        "replay left.png --video {}/x.mp4", "demo --kitti {}", "demo --json {}/x.json",
        "profile --json {}/x.json", "train {}.toml", "train edge --pairs {0} --val {0} --root .",
    ],
)  # fmt: skip
def test_a_path_that_may_not_be_looked_at_is_one_line(
    dsin: Run, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path's own methods raise for it, as they do below a folder that one may not enter."""
    monkeypatch.chdir(folder)
    done = dsin(*command.format("x" * 300).split())
    user_error(done._replace(out=""), "xxx")


@pytest.mark.parametrize(
    ("line", "offered"),
    [("dsin se", {"serve", "selftest"}), ("dsin encode --ba", {"--backend"}),
     ("dsin encode --backend tensorrt-f", {"tensorrt-fp16"})],
)  # fmt: skip
def test_shells_complete_commands_options_and_values(line: str, offered: set[str]) -> None:
    environment = {
        **os.environ, "_DSIN_COMPLETE": "complete_bash", "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }  # fmt: skip
    program = "from dsin.runtime.commands.cli import app; app(prog_name='dsin')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == offered


def test_help_has_no_colours_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in command_line(monkeypatch, capfd)("--help").out
