"""Standard output and standard error of a command, whatever becomes of them.

A disk that is full below a log, or a pipe that nobody reads any more, must not stop the work: lines
about it are lost instead. Only where the output is what the command was run for, as of `dsin info`,
it fails at its end.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from dsin.runtime.errors import DsinError
from dsin.runtime.signals import interruptions


def counted(number: int, thing: str) -> str:
    """So many things in words: "1 frame", "2 frames"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def say(line: object, wrote: Path | None = None) -> None:
    """Print a line about the work, at once. Where it cannot be printed, nothing happens.

    It goes to stderr where what it tells of, a file that the command `wrote`, is stdout.
    """
    if wrote is not None and _is_stdout(wrote):
        print(line, file=sys.stderr)
        return
    output = sys.stdout.buffer if isinstance(sys.stdout, io.TextIOWrapper) else None
    if not isinstance(output, _Output):
        print(line, flush=True)
        return
    before = output.failed
    print(line)
    output.failed = before


def _is_stdout(path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, AttributeError, io.UnsupportedOperation):
        return False


def run_app(app: Callable[[], object], name: str) -> None:
    """Run a command line as a program of that name, and end it.

    Errors that the user can mend become one line and exit status 1; so does output that could not
    be written, unless it was only said. A signal that ends it unwinds what is open first.
    """
    with _unstoppable_outputs() as output, interruptions() as signals:
        try:
            try:
                app()
            finally:
                if output is not None and output.failed is not None:
                    _refuse(output.failed)
        except DsinError as error:
            _fail(name, str(error))
        except PermissionError as error:
            _fail(name, f"cannot use {error.filename}: {error.strerror}")
        except SystemExit as end:
            if signals and end.code:
                sys.exit(128 + signals[0])  # as a shell tells of it
            raise


def _fail(name: str, reason: str) -> NoReturn:
    print(f"{name}:", " ".join(reason.split()), file=sys.stderr)
    sys.exit(1)


def _refuse(failed: OSError) -> None:
    """Raise what ends a command whose output is incomplete, unless another error ends it."""
    ending = sys.exc_info()[1]
    if ending is not None and not (isinstance(ending, SystemExit) and not ending.code):
        return
    if failed.errno == errno.EPIPE:  # as `| head` does: nobody wants to hear of it
        sys.exit(1)
    raise DsinError(f"cannot write to standard output: {failed.strerror}") from failed


class _Output(io.RawIOBase):
    """A file descriptor that takes everything; `failed` is why something was lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failed: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            self.failed = error
        return size


@contextmanager
def _unstoppable_outputs() -> Iterator[_Output | None]:
    """Within, both standard streams are such; what stdout writes to, if it is a file at all."""
    before = sys.stdout, sys.stderr
    output, sys.stdout = _unstoppable(sys.stdout)
    _, sys.stderr = _unstoppable(sys.stderr)
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before


def _unstoppable(stream: Any) -> tuple[_Output | None, Any]:
    if not isinstance(stream, io.TextIOWrapper):  # closed at the start, or replaced by a program
        return None, stream
    stream.flush()
    try:
        output = _Output(stream.fileno())
    except io.UnsupportedOperation:  # a program's own, in memory
        return None, stream
    binary: Any = output
    wrapped = io.TextIOWrapper(
        binary, encoding=stream.encoding, errors=stream.errors, line_buffering=True,
        write_through=True,
    )  # fmt: skip
    return output, wrapped
