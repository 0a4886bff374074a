"""Whether a server can listen on a port."""

from __future__ import annotations

import socket

import pytest

from rapo.util.ports import port_problem


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_free_until_something_listens_on_it(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.bind((host, 0))
        server.listen()
        port = server.getsockname()[1]
        assert port_problem(host, port) == "Address already in use"
    assert port_problem(host, port) is None
    assert port_problem(host, 0) is None


def test_an_address_of_another_machine_is_a_problem() -> None:
    assert port_problem("192.0.2.1", 0) == "Cannot assign requested address"
