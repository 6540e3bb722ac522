"""Commands about this machine: what it has, what it can do, and whether it codes as others do."""

from dsin.runtime.commands.cli_options import (
    BackendName,
    BackendOption,
    JsonOption,
    PrecisionName,
    PrecisionOption,
)


def selftest(
    json_path: JsonOption = None,
    backend: BackendOption = BackendName.cpu,
    precision: PrecisionOption = PrecisionName.auto,
) -> None:
    """Check that this machine reads and writes packets as every other one does.

    Decodes packets that are shipped with dsin, encodes the built-in pictures, and compares. The
    exit status is 1 where anything is unequal; the report can be sent in.
    """
    from dsin.runtime.diagnosis.selftest import run_selftest

    run_selftest(backend.value, precision.value, json_path)


def doctor(json_path: JsonOption = None) -> None:
    """Show what this machine has of extras, backends, cameras, video codecs and caches.

    Says for what is missing how it is installed.
    """
    from dsin.runtime.diagnosis.doctor import run_doctor

    run_doctor(json_path)
