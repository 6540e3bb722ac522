"""Packages that report to their makers, or keep cores busy while they wait, unless they are told
not to are told so, before they load.

`dsin.runtime` imports this first of all, so it holds in every process that has any part of dsin:
commands, the demo's processes, Ray's workers. Who wants a report sets the variable beforehand.
"""

import os

SILENCE = {
    # From 1.29 on: an identity and a database below the home, and a collector that is looked up.
    "ORT_DISABLE_TELEMETRY": "1",
    # Ray's statistics of usage.
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables, and the values at which a package keeps quiet."""

REST = {
    # OpenCV's threads look for work for milliseconds after each call, and keep ours from the cores:
    # on two of them a frame took a tenth longer, and far more beside other processes.
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER": "0",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_MAIN": "0",
}
"""And the values at which its threads sleep while there is no work."""


def silence_packages() -> None:
    """Set those of the variables that are not set."""
    for name, value in (SILENCE | REST).items():
        os.environ.setdefault(name, value)
