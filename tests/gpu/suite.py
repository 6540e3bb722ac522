"""The project's own tests, run by a stage on the machine that it is about.

A test that skips has not proved anything, so here it fails, with its reason.
"""

import os
import time
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
from select_machine import VARIABLE
from stage import Orders, Report
from visit_layout import CHECKOUT

WORKERS = 6
"""Processes, where pytest-xdist is there: most of the time goes into the definition, on the CPU."""


class _Counted:
    """Counts outcomes for each file of tests and keeps the first line of what failed; both are in
    the report's facts at once, for the case that the stage's limit comes first."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.passed: dict[str, int] = {}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            file = report.nodeid.split("::")[0].removeprefix("tests/")
            self.passed[file] = self.passed.get(file, 0) + 1
        elif report.failed:
            self.failed.append(f"{report.nodeid}: {_cause(report)}")
        elif report.skipped:
            self.failed.append(f"{report.nodeid} skipped: {_cause(report)}")
        if report.when == "call" or not report.passed:
            self._report.facts(passed_tests=self.passed, failed_tests=self.failed)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self.failed.append(f"{report.nodeid} cannot be collected: {_cause(report)}")


def run_tests(
    orders: Orders, report: Report, files: Sequence[str], *, rehearsed: str,
    machine: str | None = "GPU", several: bool = True,
) -> None:  # fmt: skip
    """Run the tests of some files (or single ones, file::test) that are parametrised with the GPU,
    or all with `machine` None; a check for each file. In a rehearsal, those on the emulation whose
    names match the expression `rehearsed`."""
    os.environ[VARIABLE] = "emulated" if orders.rehearse else machine or ""
    command = [
        # What warns in another version is no failure of a kernel.
        "-q", "-x" if orders.rehearse else "--maxfail=20", "-o", "filterwarnings=default",
        "-p", "no:cacheprovider", "--tb=short",
        "--rootdir", str(CHECKOUT), "-c", str(CHECKOUT / "pyproject.toml"),
    ]  # fmt: skip
    if machine is not None:
        command += ["-p", "select_machine"]
    if orders.rehearse:
        command += ["-k", rehearsed]
    else:
        command += ["-m", ""]  # slow ones, too
    if not orders.rehearse and several and find_spec("xdist"):
        command += ["-n", str(WORKERS)]
    counted = _Counted(report)
    began = time.monotonic()
    status = pytest.main(
        [*command, *(str(CHECKOUT / "tests" / file) for file in files)], plugins=[counted]
    )
    report.facts(tests_s=round(time.monotonic() - began, 1))
    for file in dict.fromkeys(name.split("::")[0] for name in files):
        lost = [line for line in counted.failed if file in line]
        passed = counted.passed.get(file, 0)
        said = f"{passed} passed" + (f", {len(lost)} failed; first: {lost[0]}" if lost else "")
        report.check(file, passed > 0 and not lost, said)
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {pytest.ExitCode(status).name}")


def _cause(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The line that says what went wrong."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    lines = [line for line in str(report.longreprtext).splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["no reason given"])[0][:200]
