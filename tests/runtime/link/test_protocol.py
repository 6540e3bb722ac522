"""The compiled protocol is that of the .proto file, and its messages can be used."""

import subprocess
import sys
from pathlib import Path

from dsin.runtime.link import dsin_v1_pb2 as dsin_v1

RUNTIME = Path(__file__).resolve().parents[3] / "runtime" / "link"


def test_the_compiled_protocol_is_that_of_the_proto_file(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{RUNTIME}", "dsin_v1.proto",
         f"--descriptor_set_out={tmp_path}/dsin_v1.binpb", f"--pyi_out={tmp_path}"],
        check=True,
    )  # fmt: skip
    for name in ("dsin_v1.binpb", "dsin_v1_pb2.pyi"):
        assert (tmp_path / name).read_bytes() == (RUNTIME / name).read_bytes()


def test_a_message_keeps_its_fields() -> None:
    frame = dsin_v1.EncodedFrame(packet=b"DSIN", timestamp_ns=2**63, frame_number=7)
    sent = dsin_v1.CameraMessage(frame=frame).SerializeToString()
    read = dsin_v1.CameraMessage.FromString(sent)
    assert read.WhichOneof("message") == "frame"
    assert (read.frame.packet, read.frame.timestamp_ns) == (b"DSIN", 2**63)
    assert dsin_v1.SideUse.Name(dsin_v1.PAIRED) == "PAIRED"
