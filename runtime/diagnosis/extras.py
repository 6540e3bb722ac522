"""Which of dsin's extras are installed, by what the package itself says that they need."""

import re
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "dsin"
CPU_RUNTIME, GPU_RUNTIME = "onnxruntime", "onnxruntime-gpu"
"""The same module: never both in one environment."""

_EXTRA = r"""extra == ["']([^"']+)["']"""

FindVersion = Callable[[str], str | None]
"""The version of a distribution that is installed, by its name."""


class Extra(NamedTuple):
    """An extra: versions of what is there, and what is `missing` or of another version."""

    name: str
    installed: dict[str, str]
    missing: list[str]


def extras(
    requires: list[str] | None = None, find: FindVersion | None = None
) -> list[Extra]:  # fmt: skip
    """Every extra, in the order in which they are declared.

    `requires` are the requirements of the package as its metadata has them, `find` the versions;
    by default those of this environment.
    """
    parsed = [Requirement(line) for line in (declared() if requires is None else requires)]
    return [_extra(name, parsed, find or installed_version) for name in _names(parsed)]


def declared() -> list[str]:
    """The requirements of dsin as it is installed; none of a source that is not."""
    try:
        return metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return []


def installed_version(name: str) -> str | None:
    """Of a distribution in this environment."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install_line(extra: str) -> str:
    """What adds an extra."""
    if extra == "gpu" and installed_version(CPU_RUNTIME) is not None:
        return f"pip uninstall -y {CPU_RUNTIME}; pip install '{NAME}[{extra}]'"
    return f"pip install '{NAME}[{extra}]'"


def _names(requirements: list[Requirement]) -> list[str]:
    """Of the extras, as markers have them."""
    markers = (str(requirement.marker or "") for requirement in requirements)
    return list(dict.fromkeys(name for m in markers for name in re.findall(_EXTRA, m)))


def _extra(name: str, requirements: list[Requirement], find: FindVersion) -> Extra:
    installed: dict[str, str] = {}
    missing: list[str] = []
    for requirement in _needed(name, requirements, set()):
        found = find(requirement.name)
        if found is None and canonicalize_name(requirement.name) == CPU_RUNTIME:
            found = find(GPU_RUNTIME)  # it has the CPU too
        if found is None:
            missing.append(str(requirement.name))
        elif not requirement.specifier.contains(found, prereleases=True):
            missing.append(f"{requirement.name}{requirement.specifier} (found {found})")
        else:
            installed[requirement.name] = found
    return Extra(name, installed, list(dict.fromkeys(missing)))


def _needed(extra: str, requirements: list[Requirement], seen: set[str]) -> Iterator[Requirement]:
    """What an extra brings on this machine, that of the extras that it names included."""
    if extra in seen:
        return
    seen.add(extra)
    for requirement in requirements:
        marker = requirement.marker
        if (
            marker is None
            or marker.evaluate({"extra": ""})
            or not marker.evaluate({"extra": extra})
        ):
            continue
        if canonicalize_name(requirement.name) == NAME:
            for inner in sorted(requirement.extras):
                yield from _needed(inner, requirements, seen)
        else:
            yield requirement
