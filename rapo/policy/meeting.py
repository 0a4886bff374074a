"""Meeting: where the ranks of a training world find each other.

- The port is taken when it is told: the socket that listens is the one that the ranks connect to.
  A port that was free when somebody looked may be taken when it is used.
- It listens on the address that the other ranks are told, and on no other.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore


def listen(address: str) -> socket.socket:
    """A socket that listens on a free port of `address`, for `host`. It does not import torch."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def host(listener: socket.socket, timeout_s: float) -> TCPStore:
    """The meeting at `listener`, for rank 0. Ranks that have come before are let in now."""
    from torch.distributed import TCPStore

    address, port = listener.getsockname()[:2]
    return TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),  # the store closes it
    )


def reach(address: str, port: int, timeout_s: float) -> TCPStore:
    """The meeting that rank 0 hosts, for the other ranks. Raises `torch.distributed.DistError`
    after `timeout_s` where nobody answers."""
    from torch.distributed import TCPStore

    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
