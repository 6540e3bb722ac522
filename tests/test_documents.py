"""README and the pages under `.docs`: what they link to is there, and what they tell to type works.

Blocks that need no camera, GPU or network are run. Of the others, every line that calls `dsin` or
`dsin-export` is read by the real command line, which refuses commands and options that it lacks.
"""

import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from support.command_line import command_line

from dsin.export.cli import app as export_app
from dsin.export.edge.decoder import write_edge_decoder
from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.commands.cli import app
from dsin.runtime.files import write_image
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.sources.push_source import PushSource
from dsin.runtime.sources.synthetic_rig import SyntheticRig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / ".docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = {"dsin": app, "dsin-export": export_app}


class Line(NamedTuple):
    """A call of one of our commands, as a page has it."""

    page: str
    text: str


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in LINK.findall(BLOCK.sub("", page.read_text())):
            if not target.startswith(("http:", "https:")):
                yield page, target


def anchors(page: Path) -> set[str]:
    """What a heading's anchor is on code hosting sites."""
    text = BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def called(text: str) -> list[str]:
    """Lines of a shell block, those that go on after a backslash joined."""
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def command_lines() -> Iterator[Line]:
    for page in PAGES:
        for kind, text in BLOCK.findall(page.read_text()):
            if kind == "sh":
                for line in called(text):
                    yield Line(page.name, line)


def own_words(line: str) -> list[str]:
    """The first call of `dsin` or `dsin-export` in a line, word by word, or nothing."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|<>"):
            calls.append([])
        elif calls[-1] or not (word == "sudo" or re.match(r"\w+=", word)):
            calls[-1].append(word)
    ours = (words for words in calls if words and Path(words[0]).name in COMMANDS)
    return next(([Path(name).name, *rest] for name, *rest in ours), [])


OURS = [line for line in command_lines() if own_words(line.text)]


def test_links_lead_somewhere() -> None:
    found = list(links())
    assert len(found) > 30
    for page, target in found:
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def test_a_page_that_nothing_links_to_would_be_lost() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page, target in links()}
    assert [page.name for page in PAGES[1:] if page not in linked] == []


@pytest.mark.parametrize(
    ("page", "file", "code"),
    [
        ("codec.md", "runtime/codec/packet.py", "zlib.crc32("),
        ("patch-correlation.md", "runtime/patch_correlation/definition.py", "TIE = "),
        ("streaming.md", "runtime/link/rpc.py", "CREDITS = "),
        ("streaming.md", "runtime/server/camera_session.py", "> CREDITS"),
        ("page.md", "runtime/web/page.js", "function stale_ms("),
    ],
)
def test_behaviour_is_found_in_two_hops(page: str, file: str, code: str) -> None:
    """From the README to a page, and from the page to the code."""
    hops = {(page.name, target.partition("#")[0]) for page, target in links()}
    assert ("README.md", f".docs/{page}") in hops
    assert (page, f"../{file}") in hops
    assert code in (ROOT / file).read_text()


@pytest.mark.parametrize("line", OURS, ids=lambda line: f"{line.page}: {line.text[:60]}")
def test_commands_and_options_exist(line: Line) -> None:
    name, subcommand, *arguments = own_words(line.text)
    group: Any = typer.main.get_command(COMMANDS[name])
    # Parsing alone: no command runs.
    group.commands[subcommand].make_context(subcommand, arguments)


def test_an_option_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        test_commands_and_options_exist(Line("", "dsin encode left.png --no-such-option"))
    with pytest.raises(KeyError):
        test_commands_and_options_exist(Line("", "dsin encipher left.png"))


def test_encoding_and_decoding_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = command_line(monkeypatch, capfd)
    monkeypatch.chdir(tmp_path)
    frame = next(iter(SyntheticRig(frames=1)))
    write_image(Path("left.png"), frame.left[:128, :192])
    write_image(Path("right.png"), frame.right[:128, :192])
    block = next(t for k, t in BLOCK.findall(PAGES[0].read_text()) if "dsin encode left.png" in t)
    for line in called(block):
        assert run(*own_words(line)[1:]).status == 0, line
    assert {path.name for path in tmp_path.glob("*.png")} > {"result.png", "alone.png"}


def test_the_python_sample() -> None:
    """The README's lines, with a link that gives back what it is given."""
    text = sample("README.md", "python sample")
    assert len(text.splitlines()) <= 10

    class Link:
        sent: bytes

        def send(self, data: bytes) -> None:
            self.sent = data

        def receive(self) -> bytes:
            return self.sent

    rig = next(iter(SyntheticRig(frames=1)))
    names: dict[str, Any] = {
        "frame": rig.left[:128, :192], "side": rig.right[:128, :192], "link": Link(),
    }  # fmt: skip
    exec(text, names)
    assert names["picture"].shape == (128, 192, 3)
    assert names["picture"].dtype == np.uint8


def sample(page: str, name: str) -> str:
    """A block of Python that a page marks by a comment."""
    text = (ROOT / page).read_text()
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_embedding_sample() -> None:
    """The page's lines, with two pictures for cameras."""
    text = sample(".docs/embedding.md", "embedding sample")
    assert len(text.splitlines()) <= 25
    rig = next(iter(SyntheticRig(frames=1)))
    left, right = rig.left[:128, :192], rig.right[:128, :192]
    shown: list[DecodedFrame] = []
    names: dict[str, Any] = {"pairs": [(left, right)], "size": (128, 192), "show": shown.append}
    exec(text, names)
    for thread in names["threads"]:
        thread.join(60)
        assert not thread.is_alive()
    assert [device.counts.captured for device in names["devices"]] == [1, 1]
    assert [(frame.rig, frame.decoded.image.shape) for frame in shown] == [("front", left.shape)]


def test_the_sample_of_the_whole_decoder(
    searching_blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It gives what the runtime gives."""
    shutil.copytree(searching_blocks, tmp_path / "my-edge")
    bundle = open_bundle(tmp_path / "my-edge")
    write_edge_decoder(bundle, tmp_path / "decoder.onnx")
    monkeypatch.chdir(tmp_path)
    rig = next(iter(SyntheticRig(frames=1)))
    x, y = rig.left[230:295, 600:720], rig.left[230:295, 602:722]
    names: dict[str, Any] = {"x": x, "y": y}
    exec(sample(".docs/export.md", "decoder sample"), names)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        expected = decoder.decode(encoder.encode(x), y)
    assert expected.used_side
    assert expected.matches is not None
    np.testing.assert_array_equal(names["row"][0], expected.matches.row)
    np.testing.assert_array_equal(names["col"][0], expected.matches.col)
    difference = np.abs(names["result"].astype(int) - expected.image)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert "padding: repeat the last row" in capsys.readouterr().out


def test_a_message_of_ros_is_pushed_as_the_page_says() -> None:
    page = (ROOT / ".docs" / "embedding.md").read_text()
    block = next(text for _, text in BLOCK.findall(page) if "def on_image" in text)
    rows = np.arange(2 * 16, dtype=np.uint8).reshape(2, 16)
    now_ns = time.time_ns()
    stamp = SimpleNamespace(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
    message = SimpleNamespace(
        data=rows.tobytes(), height=2, width=5, step=16, header=SimpleNamespace(stamp=stamp)
    )
    with PushSource((2, 5)) as source:
        names: dict[str, Any] = {"np": np, "source": source}
        exec(block, names)
        names["on_image"](message)
        frame = source.newest(0)
    assert frame is not None
    assert frame.timestamp_ns == now_ns
    np.testing.assert_array_equal(frame.image, rows[:, :15].reshape(2, 5, 3))
