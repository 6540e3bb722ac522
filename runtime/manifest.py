"""Reading a bundle's manifest and tables without trusting a byte of them."""

import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import BundleError

MANIFEST = "bundle.json"
MAX_MANIFEST_BYTES = 2**20
MAX_TABLE_BYTES = 2**24
MAX_TABLES = 64

_HEX64 = re.compile(r"[0-9a-f]{64}")
_NPY_START = struct.Struct("<8sH")
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<|][iu][1248])', 'fortran_order': False, 'shape': \(([0-9, ]{0,80})\), \} *\n"
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


class Table:
    """A JSON object whose keys are taken with their type checked; `where` names it in errors."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise BundleError(f"{where} must be a JSON object")
        self.data: dict[str, Any] = data
        self.where = where

    def integer(self, key: str, low: int, high: int) -> int:
        value: Any = self.data.get(key)
        if type(value) is not int or not low <= value <= high:
            raise BundleError(f"{self.where}: {key} must be an integer from {low} to {high}")
        return value

    def number(self, key: str) -> float:
        value: Any = self.data.get(key)
        if type(value) not in (int, float) or not 0 <= value <= 1000:
            raise BundleError(f"{self.where}: {key} must be a number from 0 to 1000")
        return float(value)

    def flag(self, key: str) -> bool:
        value: Any = self.data.get(key)
        if not isinstance(value, bool):
            raise BundleError(f"{self.where}: {key} must be true or false")
        return value

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise BundleError(f"{self.where}: {key} must be a string")
        return value

    def pair(self, key: str) -> tuple[int, int]:
        value: Any = self.data.get(key)
        good = isinstance(value, list) and len(value) == 2
        if not good or any(type(v) is not int or not 1 <= v <= 4096 for v in value):
            raise BundleError(f"{self.where}: {key} must be [height, width], 1 to 4096 each")
        return value[0], value[1]

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if not _HEX64.fullmatch(value):
            raise BundleError(f"{self.where}: {key} must be 64 hexadecimal digits")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        return Table(self.data.get(key, {}), f"{self.where}: {key}").data

    def table(self, key: str) -> "Table":
        return Table(self.data.get(key), f"{self.where}: {key}")

    def file(self, key: str, files: Container[str]) -> str:
        name = self.text(key)
        check_plain_name(name, f"{self.where}: {key}")
        if name not in files:
            raise BundleError(f"{self.where}: {key} is {name}, which files does not list")
        return name


def read_manifest(path: Path) -> Table:
    """The JSON object in `path`. Raises BundleError for anything else, or a file over the cap."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path.parent} is not a bundle: cannot read {path.name}") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is over the limit of {MAX_MANIFEST_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}") from error
    return Table(content, str(path))


def check_plain_name(name: str, where: str) -> None:
    """Raise BundleError unless `name` is a plain file name other than the manifest's."""
    if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(f"{where}: {name!r} is not a plain file name inside the bundle")


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The integer arrays of an .npz file, each checked against the file before it is made.

    Raises BundleError for a file that is not such an archive, larger than MAX_TABLE_BYTES unpacked,
    or with arrays of anything but integers.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError(f"it has more than {MAX_TABLE_BYTES} bytes")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(m.file_size for m in members) > MAX_TABLE_BYTES or len(members) > MAX_TABLES:
                raise ValueError(f"it unpacks to more than {MAX_TABLE_BYTES} bytes")
            return {m.filename.removesuffix(".npy"): _array(_member(archive, m)) for m in members}
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path} is not a table of integer arrays: {error}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Unpack no more than was declared; `archive.read` would unpack a bomb before it looks."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("an array is neither stored nor deflated")
    with archive.open(member) as file:
        return file.read(member.file_size)


def _array(data: bytes) -> npt.NDArray[Any]:
    """The array in an .npy file of version 1.0, integers in C order. Raises ValueError."""
    start = _NPY_START.size
    if len(data) < start:
        raise ValueError("an array is cut short")
    magic, header_bytes = _NPY_START.unpack_from(data)
    header = _NPY_HEADER.fullmatch(data[start : start + header_bytes])
    if magic != b"\x93NUMPY\x01\x00" or header is None:
        raise ValueError("an array is not of integers in C order, in version 1.0 of .npy")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(n) for n in header[2].split(b",") if n.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - start - header_bytes:
        raise ValueError("an array is not of the size that it declares")
    return np.frombuffer(data, dtype, offset=start + header_bytes).reshape(shape)
