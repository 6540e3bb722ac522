"""What the server counts of the way to it."""

import pytest

from dsin.runtime.datagrams.loss import LossMeter
from dsin.runtime.datagrams.pieces import Shape
from dsin.runtime.outputs.rig_status import LinkStatus
from dsin.runtime.server.link_tally import FRAMES, LinkTally


def test_every_count_has_its_place() -> None:
    tally = LinkTally()
    assert tally.status() == LinkStatus()
    loss = LossMeter()
    tally.begin("datagram", loss)
    loss.report(100, 80, 0.0)
    tally.received, tally.incomplete, tally.repaired, tally.late = 7, 4, 5, 6
    tally.lost, tally.bursts = 1000, 3
    tally.rejected["replayed"] += 2
    for shape in (Shape(2, 3, 0, 10), Shape(4, 5, 0, 10)):
        tally.frame(shape)
    assert tally.status() == LinkStatus(
        transport="datagram", loss=pytest.approx(0.2), parity=pytest.approx(8 / 6 - 1), received=7,
        lost=1023, incomplete=4, repaired=5, late=6, rejected={"replayed": 2},
    )  # fmt: skip
    tally.begin("grpc")
    assert tally.status() == LinkStatus(
        transport="grpc", received=7, lost=1000, incomplete=4, repaired=5, late=6,
        rejected={"replayed": 2},
    )  # fmt: skip


def test_parity_is_that_of_the_last_fifty_frames() -> None:
    tally = LinkTally()
    tally.frame(Shape(1, 3, 0, 10))
    for _ in range(FRAMES - 1):
        tally.frame(Shape(1, 1, 0, 10))
    assert tally.status().parity == pytest.approx(2 / FRAMES)
    tally.frame(Shape(1, 1, 0, 10))
    assert tally.status().parity == 0
