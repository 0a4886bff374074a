"""Port scan: which TCP ports of an address take a connection, as JSON.

python -m bench.serving.port_scan ADDRESS
"""

from __future__ import annotations

import json
import socket
import sys

_LIMIT_S = 2.0


def open_ports(address: str) -> list[int]:
    """Those of all 65,535 that take a connection from here. An address that does not answer at all
    raises `OSError`."""
    found = []
    (family, *_, place), *_ = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)
    for port in range(1, 65536):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(_LIMIT_S)
            try:
                probe.connect((place[0], port, *place[2:]))
                found.append(port)
            except ConnectionRefusedError:
                pass
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(open_ports(sys.argv[1])) + "\n")
