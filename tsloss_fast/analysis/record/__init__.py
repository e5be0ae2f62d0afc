"""Recording the topology of points while they are learned: tracker, file format, writer, reader."""

__all__ = ["RECORD", "RecordError"]

RECORD = "topology.arrows"


class RecordError(RuntimeError):
    """A record cannot be used. The message gives the reason and a way out."""
