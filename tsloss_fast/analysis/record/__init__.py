"""Recording the topology of points while they are learned: tracker, file format, writer, reader."""

__all__ = ["CONTROL", "RECORD", "RecordError"]

RECORD = "topology.arrows"
# The folder within a run's that holds the run with cross-entropy alone.
CONTROL = "control"


class RecordError(RuntimeError):
    """A record cannot be used. The message gives the reason and a way out."""
