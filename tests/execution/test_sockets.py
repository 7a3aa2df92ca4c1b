"""The reader of sockets."""

from __future__ import annotations

import socket

from .sockets import listening


def test_the_reader_sees_what_this_process_listens_on() -> None:
    with socket.create_server(("127.0.0.2", 0)), socket.create_server(("0.0.0.0", 0)):
        assert {"127.0.0.2", "0.0.0.0"} <= listening()
    assert not {"127.0.0.2", "0.0.0.0"} & listening()
