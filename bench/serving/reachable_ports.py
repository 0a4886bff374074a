"""What another host can reach of a running service, seen from a second network namespace.

    python -m bench.serving.reachable_ports --model DIR/export

Needs root, and `ip` of iproute2. Makes two network namespaces with a cable between them. In one it
starts `rapo serve` with `serve.host=0.0.0.0`, TLS, tokens and the page of metrics. From the other
one it tries all 65,535 TCP ports by IPv4 and by IPv6, and calls the ports that take a connection
without a token. Writes `bench/results/reachable_ports.md`, a table of all listening sockets; exit
code 1 if another port than the gateway's can be reached, or a call without a token tells more than
that it needs one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.running_scorer import running_scorer
from bench.support import record
from tests.listening import Listener, listeners
from tests.unit.serving import Authority

# Of the range for benchmarks of networks (RFC 2544): no host has them.
_HERE, _THERE = "198.18.77.1", "198.18.77.2"
_SCAN_S, _ADDRESS_S = 300.0, 10.0
_CALL = """
import sys, grpc
trusted = grpc.ssl_channel_credentials(open(sys.argv[2], "rb").read())
with grpc.secure_channel(sys.argv[1], trusted, [("grpc.ssl_target_name_override", "127.0.0.1")]) as channel:
    try:
        channel.unary_unary("/rapo.v1.AestheticScorer/GetModel")(b"", timeout=20)
        print("answers")
    except grpc.RpcError as error:
        print(error.code().name)
"""


@dataclass(frozen=True)
class Namespaces:
    """The names of the two, and under which addresses the first one's host is known to the
    second."""

    here: str
    there: str
    addresses: tuple[str, ...]

    def inside(self, name: str) -> list[str]:
        """The beginning of a command that runs in the namespace."""
        return ["ip", "netns", "exec", name]


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30).stdout


@contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Two hosts with a cable between them; both are gone afterwards."""
    here, there = (f"rapo-{side}-{os.getpid()}" for side in ("here", "there"))
    with ExitStack() as stack:
        for name in (here, there):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "rapo0", "netns", here, "type", "veth", "peer", "name", "rapo1", "netns", there)
        for name, device, address in ((here, "rapo0", _HERE), (there, "rapo1", _THERE)):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
        yield Namespaces(here, there, (_HERE, f"{_own_ipv6(here)}%rapo1"))


def _own_ipv6(name: str) -> str:
    """The address that the host gave itself, once it knows that no other one has it."""
    deadline = time.monotonic() + _ADDRESS_S
    while time.monotonic() < deadline:
        shown = _ip("-n", name, "-6", "addr", "show", "dev", "rapo0", "scope", "link", "-tentative")
        if found := re.search(r"inet6 ([0-9a-f:]+)/", shown):
            return found[1]
        time.sleep(0.2)
    raise RuntimeError("no IPv6 address came up; is IPv6 off (net.ipv6.conf.all.disable_ipv6)?")


def table(found: list[Listener], reached: dict[int, str]) -> list[dict[str, Any]]:
    """A row for each process and address that sockets listen at, and what another host gets
    there."""
    rows: dict[tuple[str, str, str], int] = {}
    for listener in found:
        answer = reached.get(listener.port, "refused") if not listener.loopback else "refused"
        key = re.sub(r"[^A-Za-z]*$", "", listener.process), listener.address, answer
        rows[key] = rows.get(key, 0) + 1
    return [
        {"process": process, "address": address, "ports": count, "from another host": answer}
        for (process, address, answer), count in sorted(rows.items())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for reachable_ports.md")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        parser.error("this needs root, and ip of iproute2, to make network namespaces")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = Authority(folder)
        certificate, key = authority.issue("server")
        net = stack.enter_context(namespaces())
        settings = ("serve.host=0.0.0.0", f"serve.gateway.certificate={certificate}", f"serve.gateway.key={key}",
                    "serve.gateway.metrics_port=0")  # fmt: skip
        scorer = stack.enter_context(running_scorer(arguments.model, ("web",), *settings, inside=net.inside(net.here)))
        gateway = int(scorer.address.rpartition(":")[2])
        found = listeners(scorer.process)
        reached = {address: _open_ports(net, address) for address in net.addresses}
        answers = {
            port: _run(net, "-c", _CALL, f"{_HERE}:{port}", str(authority.path)).strip()
            for port in sorted({port for ports in reached.values() for port in ports})
        }
    rows = table(found, {port: f"TLS; {answer} without a token" for port, answer in answers.items()})
    notes = [
        f"{address.partition('%')[0]}: {len(ports)} of 65,535 ports take a connection"
        for address, ports in reached.items()
    ]
    record.write_markdown("reachable_ports", "What another host reaches", rows, notes, arguments.out)
    sys.stdout.write("\n\n".join([record.markdown_table(rows), *notes]) + "\n")
    return int(answers != {gateway: "UNAUTHENTICATED"})


def _open_ports(net: Namespaces, address: str) -> list[int]:
    ports: list[int] = json.loads(_run(net, "-m", "bench.serving.port_scan", address))
    return ports


def _run(net: Namespaces, *words: str) -> str:
    command = [*net.inside(net.there), sys.executable, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SCAN_S).stdout


if __name__ == "__main__":
    sys.exit(main())
