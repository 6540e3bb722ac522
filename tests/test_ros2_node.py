"""The nodes under `.docs`, on a stand-in for rclpy: pictures come in, restored ones go out."""

import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import rclpy_stand_in
from support.block_bundle import write_block_bundle
from support.rclpy_stand_in import Image, Node
from support.rig_fakes import wait_until

DOCS = Path(__file__).resolve().parents[1] / ".docs"
HEIGHT, WIDTH = 80, 96


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module of the nodes, whose bundle is one made by hand."""
    rclpy_stand_in.install(monkeypatch)
    bundle = str(write_block_bundle(tmp_path / "blocks"))
    given = {name: {"bundle": bundle} for name in ("dsin_device", "dsin_server")}
    given["dsin_server"]["address"] = "127.0.0.1:0"
    monkeypatch.setattr(Node, "given", given)
    spec = importlib.util.spec_from_file_location("ros2_node", DOCS / "ros2_node.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image(level: tuple[int, int, int], now_ns: int, encoding: str = "rgb8") -> Image:
    """A message of one colour, each row of which has 5 bytes more than it needs."""
    rows = np.zeros((HEIGHT, 3 * WIDTH + 5), np.uint8)
    rows[:, : 3 * WIDTH] = np.tile(level, WIDTH)
    message = Image(
        height=HEIGHT, width=WIDTH, step=rows.shape[1], encoding=encoding, data=rows.tobytes()
    )
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
    return message


def test_pictures_of_both_cameras_become_results(nodes: Any) -> None:
    """x_dec of 100 is 102, and the result the mean of that and the side image."""
    server = nodes.ServerNode()
    Node.given["dsin_device"]["server"] = server.address
    device = nodes.DeviceNode()
    try:
        now_ns = time.time_ns()
        # After two of them it is known how often they come, and so how exactly times must agree.
        for answered, earlier_ns in enumerate((200_000_000, 0), 1):
            server.callbacks["image"](image((0, 50, 200), now_ns - earlier_ns, "bgr8"))
            wait_until(lambda n=answered: server.device.counts.answered == n)
        device.callbacks["image"](image((100, 100, 100), now_ns))
        sent = server.publishers["result"].sent
        wait_until(lambda: len(sent) == 1)
    finally:
        device.stop()
        server.stop()
    (result,) = sent
    assert (result.height, result.width, result.step) == (HEIGHT, WIDTH, 3 * WIDTH)
    assert (result.encoding, result.header.frame_id) == ("rgb8", "front/x")
    assert result.header.stamp.sec * 10**9 + result.header.stamp.nanosec == now_ns
    picture = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert picture[40, 48].tolist() == [151, 76, 51]
    assert not device.errors + server.errors


def test_pictures_that_cannot_be_used_are_logged_and_the_next_is_sent(nodes: Any) -> None:
    device = nodes.DeviceNode()
    depth = image((1, 1, 1), time.time_ns(), "16UC1")
    device.callbacks["image"](depth)
    assert device.errors == ["pictures are 16UC1: rgb8 or bgr8 is needed"]
    try:
        device.callbacks["image"](image((1, 1, 1), time.time_ns()))
        assert device.source.captured == 1
        device.callbacks["image"](image((1, 1, 1), 0))
        assert len(device.errors) == 2, "a time of another clock"
    finally:
        device.stop()


def test_certificates_are_those_of_a_folder(nodes: Any) -> None:
    device = nodes.DeviceNode()
    assert device.certificates("front") is None
    device.folder = "pki"
    found = device.certificates("front")
    assert [Path(path).name for path in vars(found).values()] == [
        "ca.pem", "front.pem", "front.key"
    ]  # fmt: skip


def test_the_program_stops_what_it_started(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rclpy: Any = sys.modules["rclpy"]
    spun: list[Any] = []
    rclpy.init, rclpy.shutdown = lambda args: spun.append(args), lambda: spun.append("down")
    rclpy.spin = spun.append
    monkeypatch.setattr(sys, "argv", ["ros2_node.py", "device", "--ros-args"])
    nodes.main()
    arguments, node, down = spun
    assert (arguments, down) == (["--ros-args"], "down")
    assert isinstance(node, nodes.DeviceNode)
    assert node.destroyed


def test_the_page_has_the_source_as_it_is() -> None:
    page = (DOCS / "ros2.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert found[1] == (DOCS / "ros2_node.py").read_text()
