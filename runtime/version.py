"""The version of dsin that is installed."""

from importlib import metadata

try:
    __version__ = metadata.version("dsin")
except metadata.PackageNotFoundError:  # run from its source
    __version__ = "0+unknown"
