"""As much of rclpy and sensor_msgs as a node needs that subscribes and publishes pictures.

It delivers what it is told to, at once and in the caller's thread, and proves nothing about ROS 2.
"""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Image:
    """sensor_msgs/Image: its fields with their defaults, set by name."""

    def __init__(self, **fields: Any) -> None:
        self.header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="")
        self.height = self.width = self.step = 0
        self.encoding, self.data = "", b""
        for name, value in fields.items():
            if not hasattr(self, name):
                raise AttributeError(name)
            setattr(self, name, value)


class Publisher:
    def __init__(self) -> None:
        self.sent: list[Image] = []

    def publish(self, message: Image) -> None:
        self.sent.append(message)


class Node:
    """One with the parameters that `given` has by the node's name."""

    given: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self._name = name
        self.callbacks: dict[str, Callable[[Image], None]] = {}
        self.publishers: dict[str, Publisher] = {}
        self.errors: list[str] = []
        self.destroyed = False

    def declare_parameter(self, name: str, default: Any) -> SimpleNamespace:
        return SimpleNamespace(value=self.given.get(self._name, {}).get(name, default))

    def create_subscription(
        self, kind: type, topic: str, callback: Callable[[Image], None], qos: object
    ) -> None:
        assert kind is Image
        self.callbacks[topic] = callback

    def create_publisher(self, kind: type, topic: str, qos: object) -> Publisher:
        assert kind is Image
        self.publishers[topic] = Publisher()
        return self.publishers[topic]

    def get_logger(self) -> SimpleNamespace:
        return SimpleNamespace(error=lambda text, throttle_duration_sec: self.errors.append(text))

    def destroy_node(self) -> None:
        self.destroyed = True


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make them importable; `rclpy`, whose `init`, `spin` and `shutdown` are the test's to set."""
    names = ("rclpy", "rclpy.node", "rclpy.qos", "sensor_msgs", "sensor_msgs.msg")
    modules = {name: ModuleType(name) for name in names}
    modules["rclpy.node"].Node = Node  # type: ignore[attr-defined]
    modules["rclpy.qos"].qos_profile_sensor_data = object()  # type: ignore[attr-defined]
    modules["sensor_msgs.msg"].Image = Image  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["rclpy"]
