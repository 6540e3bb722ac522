"""The bad link of tests and benchmarks does to packets what it says, and the same each time."""

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support.link_model import Conditions, Outages, SegmentStream, VirtualTime, Wire
from support.link_simulator import LinkSimulator
from support.rig_fakes import fake_device, fake_server, wait_until

Arrivals = list[tuple[float, int]]


def passed(
    conditions: Conditions,
    count: int = 20,
    size: int = 500,
    interval_s: float = 0.01,
    seed: int = 0,
) -> Arrivals:
    """When each of `count` packets arrives, and its number."""
    world, arrivals = VirtualTime(), Arrivals()
    wire = Wire(world, conditions, seed=seed)
    for number in range(count):
        world.run_until(number * interval_s)
        wire.send(size, lambda n=number: arrivals.append((round(world.time(), 6), n)))
    world.run_until(count * interval_s + 10)
    return arrivals


def test_a_good_link_delays_and_does_nothing_else() -> None:
    assert passed(Conditions(delay_s=0.1), count=3) == [(0.1, 0), (0.11, 1), (0.12, 2)]


def test_jitter_keeps_the_order() -> None:
    arrivals = passed(Conditions(delay_s=0.1, jitter_s=0.05), count=200)
    assert [number for _, number in arrivals] == list(range(200))
    delays = [at - 0.01 * number for at, number in arrivals]
    assert 0.1 <= min(delays) < 0.105
    assert 0.145 < max(delays) <= 0.15


def test_loss_is_the_share_it_was_told_and_repeats_with_its_seed() -> None:
    lossy = Conditions(loss=0.2)
    arrivals = passed(lossy, count=5000)
    assert 0.785 < len(arrivals) / 5000 < 0.815
    assert passed(lossy, count=5000) == arrivals
    assert passed(lossy, count=5000, seed=1) != arrivals


def test_other_conditions_leave_the_losses_alone() -> None:
    def lost(conditions: Conditions) -> set[int]:
        return set(range(300)) - {number for _, number in passed(conditions, count=300)}

    assert lost(Conditions(loss=0.1)) == lost(
        Conditions(loss=0.1, jitter_s=0.1, reordered=0.3, duplicated=0.1)
    )


def test_bursts_lose_everything_for_their_time() -> None:
    gone = Conditions(burst_s=0.3, burst_every_s=2.0)
    arrived = {number for _, number in passed(gone, count=3000)}
    missing = [number for number in range(3000) if number not in arrived]
    starts = [n for n in missing if n - 1 not in missing]
    lengths = [next(k for k in range(100) if n + k not in missing) for n in starts]
    assert set(lengths) <= {29, 30, 31}
    assert 10 <= len(starts) <= 17  # in 30 s, one every 2.3 s on average


def test_both_directions_share_an_outage() -> None:
    world, outages, heard = VirtualTime(), Outages(3), Counter[str]()
    gone = Conditions(burst_s=0.3, burst_every_s=1.0)
    wires = {name: Wire(world, gone, outages, seed) for seed, name in enumerate(("up", "down"))}
    for step in range(1000):
        world.run_until(step / 100)
        before = heard.copy()
        for name, wire in wires.items():
            wire.send(100, lambda n=name: heard.update([n]))
        world.run_until(step / 100)
        assert len(heard - before) in (0, 2)
    assert heard["up"] == heard["down"] < 1000
    assert [round(one.end_s - one.start_s, 6) for one in outages.begun] == [0.3] * len(
        outages.begun
    )


def test_reordered_packets_are_overtaken_and_duplicates_come_twice() -> None:
    arrivals = passed(Conditions(reordered=0.2, reorder_s=0.1), count=1000)
    numbers = [number for _, number in arrivals]
    assert sorted(numbers) == list(range(1000))
    assert 100 < sum(b < a for a, b in itertools.pairwise(numbers)) < 200
    assert max(at - 0.01 * number for at, number in arrivals) <= 0.1
    twice = Counter(number for _, number in passed(Conditions(duplicated=0.02), count=5000))
    assert set(twice.values()) == {1, 2}
    assert 70 < sum(count == 2 for count in twice.values()) < 130


def test_the_bucket_limits_the_rate_and_the_queue_is_bounded() -> None:
    # 1000 bytes at 80 kbit/s take 0.1 s; the bucket lets the first one through at once.
    thin = Conditions(kbps=80, bucket_bytes=1000, queue_bytes=3000)
    arrivals = passed(thin, count=10, size=1000, interval_s=0.0)
    assert arrivals == [(0.0, 0), (0.1, 1), (0.2, 2), (0.3, 3)]  # three waited, six had no room


def test_a_rate_that_changes_holds_from_then_on() -> None:
    world, arrivals = VirtualTime(), list[float]()
    conditions = Conditions(kbps=80, bucket_bytes=1000)
    wire = Wire(world, conditions)
    for _ in range(6):
        wire.send(1000, lambda: arrivals.append(round(world.time(), 6)))
    world.run_until(0.25)
    conditions.kbps = 800
    world.run_until(1.0)
    assert arrivals == [0.0, 0.1, 0.2, 0.3, 0.31, 0.32]


def test_what_finds_no_room_and_what_is_down_is_told_as_lost() -> None:
    world, lost = VirtualTime(), list[str]()
    wire = Wire(world, Conditions(kbps=80, bucket_bytes=1000, queue_bytes=1000))
    for name in ("passes", "waits", "overflows"):
        wire.send(1000, lambda: None, lambda n=name: lost.append(n))
    wire.conditions.down = True
    world.run_until(1.0)
    assert lost == ["overflows", "waits"]
    assert wire.counts == {"sent": 3, "overflowed": 1, "lost": 1, "arrived": 1}


def delivered(lost_numbers: set[int], count: int, interval_s: float) -> Arrivals:
    """When a stream's segments are delivered over 100 ms each way, if the first transmissions of
    these are lost."""
    world, arrivals = VirtualTime(), Arrivals()
    wire = Wire(world, Conditions(delay_s=0.1))

    def take(segment: bytes) -> None:
        arrivals.append((round(world.time(), 6), segment[0]))

    stream = SegmentStream(world, wire, take)
    for number in range(count):
        world.run_until(number * interval_s)
        wire.conditions.down = number in lost_numbers
        stream.send(bytes([number]))
        wire.conditions.down = False
    world.run_until(60.0)
    assert stream.under_way == 0
    return arrivals


def test_a_lost_segment_holds_up_those_behind_it() -> None:
    # Lost at 0.1 s, sent again a round trip and a quarter later, and then 0.1 s under way.
    assert delivered({1}, 4, 0.1) == [(0.1, 0), (0.45, 1), (0.45, 2), (0.45, 3)]


def test_a_lost_last_segment_waits_for_the_probe() -> None:
    assert delivered({1}, 2, 0.1) == [(0.1, 0), (0.6, 1)]  # 0.1 + 2 round trips + 0.1


def test_a_segment_lost_again_waits_for_timeouts_that_double() -> None:
    world, arrivals = VirtualTime(), list[float]()
    wire = Wire(world, Conditions(delay_s=0.1, down=True))
    stream = SegmentStream(world, wire, lambda segment: arrivals.append(round(world.time(), 6)))
    stream.send(b"x")
    world.run_until(1.0)  # lost at 0, the probe at 0.4, the timeout of 0.4 at 0.8
    wire.conditions.down = False
    world.run_until(10.0)
    assert arrivals == [1.7]  # the next one at 1.6


def test_duplicates_and_reordering_do_not_reach_a_stream() -> None:
    world, arrived = VirtualTime(), list[bytes]()
    bad = Conditions(loss=0.2, reordered=0.3, duplicated=0.2, kbps=2000)
    stream = SegmentStream(world, Wire(world, bad, seed=4), arrived.append)
    for number in range(100):
        stream.send(bytes([number]))
        world.run_until(number / 100)
    world.run_until(100.0)
    assert arrived == [bytes([number]) for number in range(100)]


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """Echoes datagrams, and each connection's bytes, at one port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", port))

    def echo_datagrams() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = datagrams.recvfrom(65535)
                if sender is None:  # it was shut down
                    return
                datagrams.sendto(data, sender)

    def echo_streams() -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                while data := one.recv(4096):
                    one.sendall(data)
                one.close()

    threads = [threading.Thread(target=t, daemon=True) for t in (echo_datagrams, echo_streams)]
    for thread in threads:
        thread.start()
    try:
        yield port
    finally:
        for one in (listener, datagrams):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in threads:
            thread.join(5)


def test_the_proxy_passes_on_tcp_and_udp_at_one_port() -> None:
    seen: list[bytes] = []
    with echo_server() as port, LinkSimulator(port, tap=seen.append) as link:
        with socket.create_connection(("127.0.0.1", link.port), 5) as stream:
            sent = bytes(range(256)) * 200
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            back = b""
            while data := stream.recv(65536):
                back += data
        assert back == sent
        senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for number, one in enumerate(senders):
            one.settimeout(5)
            one.sendto(bytes([number]), ("127.0.0.1", link.port))
        assert [one.recv(10) for one in senders] == [b"\0", b"\1"]
        for one in senders:
            one.close()
        assert sorted(seen) == [b"\0", b"\1"]
        forth, back_counts = link.counts
        assert forth["arrived"] == forth["sent"] > 30
        assert back_counts["lost"] == 0


def test_the_proxy_loses_datagrams_and_changes_while_it_runs() -> None:
    with (
        echo_server() as port,
        LinkSimulator(port, Conditions(down=True)) as link,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
    ):
        one.settimeout(0.1)
        one.sendto(b"lost", ("127.0.0.1", link.port))
        with pytest.raises(TimeoutError):
            one.recv(10)
        link.conditions.down = False
        one.settimeout(5)
        one.sendto(b"found", ("127.0.0.1", link.port))
        assert one.recv(10) == b"found"
        assert link.counts[0] == {"sent": 2, "lost": 1, "arrived": 1}


def test_the_proxy_delays_both_ways() -> None:
    with (
        echo_server() as port,
        LinkSimulator(port, Conditions(delay_s=0.05), back=Conditions(delay_s=0.1)) as link,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
    ):
        one.settimeout(5)
        start_s = time.monotonic()
        one.sendto(b"x", ("127.0.0.1", link.port))
        one.recv(10)
        assert time.monotonic() - start_s >= 0.15


def test_the_proxy_cuts_connections() -> None:
    with (
        echo_server() as port,
        LinkSimulator(port) as link,
        socket.create_connection(("127.0.0.1", link.port), 5) as stream,
    ):
        stream.sendall(b"x")
        assert stream.recv(1) == b"x"
        link.cut()
        assert _ended(stream)


def test_a_server_that_is_away_ends_a_connection() -> None:
    with echo_server() as port:
        pass
    with LinkSimulator(port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as one:
        assert _ended(one)


def _ended(stream: socket.socket) -> bool:
    try:
        return stream.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_rig_streams_through_it() -> None:
    bad = Conditions(delay_s=0.02, jitter_s=0.02, loss=0.2, kbps=1000)
    with fake_server() as server, LinkSimulator(server.server.port, bad) as link:
        device = fake_device(f"127.0.0.1:{link.port}", fps=20, count=None)
        wait_until(lambda: len(server.frames) >= 10 and link.counts[0]["lost"] > 2, 30)
        device.stop()
        numbers = server.numbers("front")
        assert numbers == sorted(set(numbers))
