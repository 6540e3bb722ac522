"""What the streaming rig survives, at length; tests/runtime/server/test_streaming_faults.py has
short versions.

    python tests/benchmarks/streaming_faults.py [--only NAME ...] [--json FILE]

A server of its own process decodes with fake decoders that only take time; everything else is real.
Each fault prints a line: what was measured, what must hold, and whether it does. The two sides
share the machine with the attackers, so ages include their competition for its cores.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streaming_soak import rss_kib
from support.fault_proxy import FaultProxy, Faults
from support.hostile_peers import (
    idle_connections,
    reset_streams,
    send_garbage,
    send_huge_messages,
    send_wrong_messages,
)
from support.rig_fakes import FakeEncoder, fake_device, wait_until
from support.rig_server_process import ServerProcess, free_port

from dsin.runtime.device.device import AnsweredFrame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=sorted(FAULTS), default=sorted(FAULTS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for name in arguments.only:
        results[name] = FAULTS[name]()
        print(name, json.dumps(results[name]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if all(result["passed"] for result in results.values()) else 1)


@contextmanager
def server_process(decode_s: float) -> Any:
    server = ServerProcess(free_port(), decode_s)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def slow_server(seconds: float = 60.0) -> dict[str, Any]:
    """30 frames a second for a server that takes 10: the age stays within 3 of its intervals."""
    answers: list[AnsweredFrame] = []
    with server_process(0.1) as server:
        device = fake_device(f"127.0.0.1:{server.port}", fps=30, count=None, answers=answers)
        wait_until(lambda: len(answers) > 50)
        before = rss_kib(server.process.pid), rss_kib(os.getpid())
        time.sleep(seconds)
        after = rss_kib(server.process.pid), rss_kib(os.getpid())
        counts = device.stop()
    ages = np.array([answer.age_ms for answer in answers])
    grown = [round(100 * (b / a - 1), 2) for a, b in zip(before, after, strict=True)]
    return {
        "frames": counts.answered,
        "dropped": counts.dropped,
        "age_ms_p50_p99_max": np.percentile(ages, [50, 99, 100]).round(1).tolist(),
        "memory_growth_percent_server_device": grown,
        "passed": bool(
            np.percentile(ages, 99) <= 300 and counts.dropped > counts.answered and max(grown) < 2
        ),
    }


def frozen_server(times: int = 5) -> dict[str, Any]:
    """SIGSTOP: noticed within 3 s, and the stream goes on after SIGCONT."""
    noticed, back = [], []
    with server_process(0.01) as server:
        device = fake_device(f"127.0.0.1:{server.port}", fps=20, count=None)
        for _ in range(times):
            seen = len(server.lines)
            wait_until(lambda seen=seen: len(server.lines) > seen + 20)
            reconnects = device.device.counts.reconnects
            os.kill(server.process.pid, signal.SIGSTOP)
            noticed.append(wait_until(lambda n=reconnects: device.device.counts.reconnects > n, 10))
            os.kill(server.process.pid, signal.SIGCONT)
            seen = len(server.lines)
            back.append(wait_until(lambda seen=seen: len(server.lines) > seen + 3, 10))
        device.stop()
    return {
        "noticed_s": np.round(noticed, 2).tolist(),
        "streaming_again_s": np.round(back, 2).tolist(),
        "passed": max(noticed) <= 3.0,
    }


def killed_server(times: int = 20) -> dict[str, Any]:
    """kill -9 so many times: back within 2 s of its return, no frame twice or out of order."""
    back = []
    server = ServerProcess(free_port(), 0.01)
    server.start()
    device = fake_device(f"127.0.0.1:{server.port}", fps=30, count=None)
    try:
        for number in range(times):
            seen = len(server.lines)
            wait_until(lambda seen=seen: len(server.lines) > seen + 10)
            server.kill()
            time.sleep(0.1 + 0.15 * number)
            server.start()
            seen = len(server.lines)
            back.append(wait_until(lambda seen=seen: len(server.lines) > seen, 10))
        counts = device.stop()
    finally:
        server.kill()
    numbers = [int(line.split()[1]) for line in server.lines]
    return {
        "back_s_p50_max": [round(float(np.median(back)), 2), round(max(back), 2)],
        "lost": counts.lost,
        "in_order_once": numbers == sorted(set(numbers)),
        "passed": max(back) <= 2 and numbers == sorted(set(numbers)),
    }


def bad_networks(seconds: float = 20.0) -> dict[str, Any]:
    """Stalls, long ways, a thin link: no deadlock, the age bounded."""
    cases = {
        "1 % of writes stalled": Faults(stalled=0.01),
        "5 % of writes stalled": Faults(stalled=0.05),
        "20 % of writes stalled": Faults(stalled=0.2),
        "50 ms round trip": Faults(delay_s=0.025),
        "200 ms round trip": Faults(delay_s=0.1),
        "1 Mbit/s": Faults(kbps=1000),
        "1 Mbit/s, 200 ms, 5 % stalled": Faults(kbps=1000, delay_s=0.1, stalled=0.05),
    }
    found: dict[str, Any] = {"passed": True}
    for name, faults in cases.items():
        answers: list[AnsweredFrame] = []
        with server_process(0.05) as server, FaultProxy(server.port, faults) as proxy:
            device = fake_device(
                f"127.0.0.1:{proxy.port}", fps=10, count=None, maker=FakeEncoder(4000),
                answers=answers,
            )  # fmt: skip
            time.sleep(seconds)
            counts = device.stop()
        ages = np.array([answer.age_ms for answer in answers])
        found[name] = {
            "fps": round(len(answers) / seconds, 1),
            "age_ms_p50_p99_max": np.percentile(ages, [50, 99, 100]).round(0).tolist(),
            "reconnects": counts.reconnects,
        }
        found["passed"] &= bool(ages.max() < 3000 and len(answers) > seconds)
    return found


def hostile_peers() -> dict[str, Any]:
    """10,000 resets, 1,000 idle connections, 20 messages of 64 MB, garbage: a good rig goes on."""
    answers: list[AnsweredFrame] = []
    with server_process(0.05) as server:
        good = fake_device(f"127.0.0.1:{server.port}", fps=10, count=None, answers=answers)
        wait_until(lambda: len(answers) > 150, 60)
        baseline = [answer.round_trip_ms for answer in answers[10:]]
        attackers = {
            "10000 stream resets": (reset_streams, 10_000),
            "1000 idle connections": (_idle, 1000),
            "20 messages of 64 MB": (send_huge_messages, 20),
            "300 connections of garbage": (send_garbage, 300),
            "1000 wrong messages": (send_wrong_messages, 1000),
        }
        ratios = {}
        for name, (attack, count) in attackers.items():
            before = len(answers)
            process = multiprocessing.get_context("spawn").Process(
                target=attack, args=(server.port, count)
            )
            process.start()
            process.join()
            wait_until(lambda before=before: len(answers) > before + 30, 60)
            during = [answer.round_trip_ms for answer in answers[before:]]
            ratios[name] = round(float(np.percentile(during, 99) / np.percentile(baseline, 99)), 2)
        memory_mib = rss_kib(server.process.pid) / 1024
        counts = good.stop()
    return {
        "baseline_p99_ms": round(float(np.percentile(baseline, 99)), 1),
        "p99_over_baseline": ratios,
        "server_mib": round(memory_mib),
        "good_rig": {"reconnects": counts.reconnects, **counts.statuses},
        "passed": max(ratios.values()) <= 2 and counts.reconnects == 0,
    }


def _idle(port: int, count: int) -> None:
    with idle_connections(port, count):
        time.sleep(8)


FAULTS: dict[str, Callable[[], dict[str, Any]]] = {
    "slow_server": slow_server,
    "frozen_server": frozen_server,
    "killed_server": killed_server,
    "bad_networks": bad_networks,
    "hostile_peers": hostile_peers,
}

if __name__ == "__main__":
    main()
