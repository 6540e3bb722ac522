"""Frames in datagrams: how they are sealed, cut into pieces with parity, and put together again.

Pure functions and small objects that open no socket; the two ends are in dsin.runtime.device and
dsin.runtime.server. Byte by byte: .docs/datagrams.md.
"""
