"""Two ROS 2 nodes: one sends a camera's pictures, the other publishes what becomes of them.

python3 ros2_node.py device --ros-args -r image:=/left/image_raw -p server:=SERVER:7000
python3 ros2_node.py server --ros-args -r image:=/right/image_raw -r result:=/left/image_restored
"""

import sys
import threading
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from dsin.runtime import DsinError, Encoder
from dsin.runtime.device import Device, PacketMaker, PictureMaker, PushSource
from dsin.runtime.link import Certificates
from dsin.runtime.server import serving


class CameraNode(Node):
    """Pushes what comes on the topic `image` to a server; the first picture tells the size."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.rig = self.declare_parameter("rig", "front").value
        self.bundle = self.declare_parameter("bundle", "edge").value
        self.folder = self.declare_parameter("certificates", "").value  # "": this machine only
        self.source: PushSource | None = None
        self.create_subscription(Image, "image", self.on_image, qos_profile_sensor_data)

    def certificates(self, name: str) -> Certificates | None:
        folder = Path(self.folder)
        names = (folder / file for file in ("ca.pem", f"{name}.pem", f"{name}.key"))
        return Certificates(*names) if self.folder else None

    def on_image(self, message: Image) -> None:
        try:
            if message.encoding not in ("rgb8", "bgr8"):
                raise DsinError(f"pictures are {message.encoding}: rgb8 or bgr8 is needed")
            rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
            frame = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
            if message.encoding == "bgr8":
                frame = frame[:, :, ::-1]
            if self.source is None:
                self.source = PushSource((message.height, message.width))
                self.device = Device(self.source, self.maker(), self.target(), self.rig,
                                     self.certificates(self.rig))  # fmt: skip
                self.thread = threading.Thread(target=self.device.run)
                self.thread.start()
            stamp = message.header.stamp
            self.source.push(frame, stamp.sec * 10**9 + stamp.nanosec)
        except DsinError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5)

    def stop(self) -> None:
        if self.source is not None:
            self.device.stop()
            self.source.close()
            self.thread.join()


class DeviceNode(CameraNode):
    """The camera whose pictures are encoded."""

    def __init__(self) -> None:
        super().__init__("dsin_device")
        self.server = self.declare_parameter("server", "127.0.0.1:7000").value
        self.encoder = Encoder(self.bundle)

    def maker(self) -> PacketMaker:
        return PacketMaker(self.encoder)

    def target(self) -> str:
        return self.server


class ServerNode(CameraNode):
    """Decodes with the help of a camera of its own, and publishes on the topic `result`."""

    def __init__(self) -> None:
        super().__init__("dsin_server")
        address = self.declare_parameter("address", "127.0.0.1:7000").value
        self.name = self.declare_parameter("server", "").value  # as its certificate has it
        self.results = self.create_publisher(Image, "result", qos_profile_sensor_data)
        self.serving = serving(
            address, self.bundle, on_frame=self.publish, certificates=self.certificates("server")
        )
        self.address = self.serving.__enter__().address

    def maker(self) -> PictureMaker:
        return PictureMaker()

    def target(self) -> str:
        return self.name or self.address

    def publish(self, frame) -> None:
        picture = frame.decoded.image
        message = Image(height=picture.shape[0], width=picture.shape[1], encoding="rgb8")
        message.step, message.data = 3 * message.width, picture.tobytes()
        message.header.frame_id = f"{frame.rig}/x"
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(frame.timestamp_ns, 10**9)
        self.results.publish(message)

    def stop(self) -> None:
        super().stop()
        self.serving.__exit__(None, None, None)


def main() -> None:
    rclpy.init(args=sys.argv[2:])
    node = {"device": DeviceNode, "server": ServerNode}[sys.argv[1]]()
    try:
        rclpy.spin(node)
    finally:
        node.stop()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
