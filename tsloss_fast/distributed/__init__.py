"""One cloud, many processes: the rows of a point cloud sharded over a torch.distributed group."""

from .peers import PeerError
from .persistence import h0_persistence

__all__ = ["PeerError", "h0_persistence"]
