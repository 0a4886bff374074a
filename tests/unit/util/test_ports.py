from __future__ import annotations

import socket

from rapo.util.ports import bind_error, free_port


def test_a_taken_port_has_a_reason_and_a_free_one_has_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert bind_error("127.0.0.1", port) == "Address already in use"
    assert bind_error("127.0.0.1", port) is None


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_an_address_of_another_machine_has_a_reason() -> None:
    assert bind_error("192.0.2.1", 0) == "Cannot assign requested address"
