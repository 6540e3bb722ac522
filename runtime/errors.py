"""Everything that a user can put right, as one exception tree.

    DsinError                 one line on stderr, exit status 1
    ├── PacketError           bytes that are not a packet of this bundle
    │   └── ReferenceMissingError  a packet that refers to a frame that is not there
    ├── BundleError           a model directory that is incomplete, altered or of another version
    ├── FrameError            an image, a folder or a pair list that cannot be used
    ├── BackendError          a backend or a device that was asked for and is not there
    ├── CheckpointError       a checkpoint that cannot be read or does not fit its preset
    ├── ExportError           a graph that does not compute what the model computes
    ├── StreamError           the peer of a stream is gone, or speaks something else
    └── RecordingError        a recording that cannot be written or read

Each message says in one line what is wrong and what to do. Anything else that is raised is an
internal fault and keeps its traceback.
"""


class DsinError(Exception):
    """Base of every error that the user can put right."""


class PacketError(DsinError):
    """Bytes that are not a packet, or a packet of another bundle."""


class ReferenceMissingError(PacketError):
    """A packet that refers to a frame that the decoder does not have (any more)."""


class BundleError(DsinError):
    """A bundle that is missing, incomplete, altered or of another version."""


class FrameError(DsinError):
    """An image, a frame source or a pair list that cannot be used."""


class BackendError(DsinError):
    """A backend or a device that was asked for and is absent."""


class CheckpointError(DsinError):
    """A checkpoint that cannot be read, or does not fit its preset."""


class ExportError(DsinError):
    """An exported graph that differs from the model it came from."""


class StreamError(DsinError):
    """The peer of a stream went away, or speaks another protocol."""


class RecordingError(DsinError):
    """A recording that cannot be written, or a file that is not a recording."""
