"""compute-sanitizer over every kernel on a small case: memcheck, then racecheck.

A rehearsal runs the case on the emulation, which ends memory at a page that nothing may touch, and
stops a kernel whose threads wait for others that never come.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kernel_checks
from stage import NotCarriedError, Orders, Report, machine, need_gpu, run

TOOLS = ("memcheck", "racecheck")
SIZE = (48, 96)
FOUND = 99
"""The exit status that compute-sanitizer is asked for when it found something."""
_SUMMARY = re.compile(r"=+ (?:ERROR SUMMARY|RACECHECK SUMMARY): (.*)")
_FIRST = re.compile(r"=+ (?!COMPUTE-SANITIZER|ERROR SUMMARY|RACECHECK SUMMARY)(\S.*)")


def work(orders: Orders, report: Report) -> None:
    if orders.rehearse:
        with machine(orders) as pool:
            told = pool.submit(kernel_checks.small_case, 40, 48).result()
        report.check("the case, emulated", not told, "; ".join(told))
        return
    need_gpu(least_gib=2)
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise NotCarriedError("compute-sanitizer is not on the PATH: it comes with CUDA's toolkit")
    for name in TOOLS:
        check(report, tool, name, orders.limit_s / len(TOOLS))


def check(report: Report, tool: str, name: str, limit_s: float) -> None:
    """One tool of the sanitizer: what it found becomes a check."""
    case = Path(__file__).with_name("sanitizer_case.py")
    command = [
        tool, "--tool", name, "--error-exitcode", str(FOUND), sys.executable, str(case),
        *map(str, SIZE),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        report.check(name, False, f"did not end within {limit_s:.0f} s")
        return
    print(done.stdout, done.stderr)
    report.check(name, *verdict(done.returncode, done.stdout + done.stderr))


def verdict(status: int, output: str) -> tuple[bool, str]:
    """Whether nothing was found, and what the sanitizer says in one line."""
    summary = _SUMMARY.search(output)
    if status == 0 and summary is not None:
        return True, summary[1].strip()
    first = _FIRST.search(output)
    said = [found[1].strip() for found in (summary, first) if found is not None]
    if first is None:
        # The program's own complaint.
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith("=====")]
        said += own[-1:] or ["nothing more is said"]
    return False, f"status {status}: {'; '.join(said)}"


if __name__ == "__main__":
    run(work)
