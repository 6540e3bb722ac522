"""Recorded packets, read and decoded again."""
