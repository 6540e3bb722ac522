"""The state of a rig, for pages and metrics."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinkStatus:
    """The way from a rig's camera x. `transport` is `grpc` or `datagram`, empty before the first
    connection. Of datagrams: `loss` is the share that was lost lately, `parity` how many pieces of
    parity there were for each piece of a frame lately; counts of datagrams that came and were lost,
    of frames that never had enough pieces (`incomplete`) or that parity completed (`repaired`), of
    pieces that came when their frame was given up (`late`), and of datagrams `rejected`, by reason.
    """

    transport: str = ""
    loss: float = 0.0
    parity: float = 0.0
    received: int = 0
    lost: int = 0
    incomplete: int = 0
    repaired: int = 0
    late: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RigStatus:
    """One rig at a moment.

    Counts are since the server's start; `referring` of the decoded frames referred to an earlier
    one. `kbps` (packets of x, 1000 bit/s) and `fps` are of the last five seconds; `newest_age_ms`
    is how old the newest decoded picture is by now, None before the first. `device` is what the
    camera reported about itself (captured, dropped, lost, reconnects, capture_ms, encode_ms,
    target_kbps, and delivered_kbps, queueing_ms, loss (0..1) of a link that it follows), empty
    before that.
    """

    rig: str
    camera_connected: bool
    side_connected: bool
    width: int
    height: int
    decoded: int
    superseded: int
    rejected: int
    side_uses: dict[str, int]
    kbps: float
    fps: float
    newest_age_ms: float | None
    clock_offset_ms: float | None
    clock_error_ms: float | None
    device: dict[str, float]
    link: LinkStatus = field(default_factory=LinkStatus)
    referring: int = 0
