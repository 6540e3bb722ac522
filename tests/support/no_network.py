"""Processes that end when they open a socket to anywhere."""

import ctypes
import platform
import struct

_SOCKET = {"x86_64": 41, "aarch64": 198}
"""The number of the system call `socket`."""
_INTERNET = (2, 10)  # AF_INET and AF_INET6
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NUMBER_AT, _FIRST_ARGUMENT_AT = 0, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid_network() -> None:
    """From now on the kernel kills this process, children included, with SIGSYS when any thread
    opens an IPv4 or IPv6 socket, whether from Python or from a library."""
    instructions = b"".join(
        struct.pack("HBBI", *fields)
        for fields in (
            (_LOAD, 0, 0, _NUMBER_AT),
            (_JUMP_IF_EQUAL, 0, 3, _SOCKET[platform.machine()]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
            (_JUMP_IF_EQUAL, 2, 0, _INTERNET[0]),
            (_JUMP_IF_EQUAL, 1, 0, _INTERNET[1]),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _KILL_PROCESS),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(instructions) // 8, instructions)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program)) == 0, ctypes.get_errno()
