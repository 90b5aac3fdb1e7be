"""What is on loopback stays there: Zenoh scouts from a port that other machines can send to."""

import json
import socket
import time
from typing import Any

import pytest
import zenoh

from perception.formats.zenoh_session import direct
from perception.queues.zenoh_session import open_session

PATIENCE_S = 30.0


def keep_in(payloads: list[bytes]) -> Any:
    return direct(lambda sample: payloads.append(bytes(sample.payload)))


def outer_address() -> str:
    """An address of this machine that others can reach; skips the test where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no network but loopback")
        return str(any_socket.getsockname()[0])


def test_a_peer_elsewhere_that_answers_our_scouting_gets_and_gives_nothing() -> None:
    elsewhere = zenoh.Config()
    for name, value in (
        ("listen/endpoints", [f"tcp/{outer_address()}:0"]),
        ("scouting/multicast/interface", "127.0.0.1"),
        # It does not come to us: another machine could not.
        ("scouting/multicast/autoconnect", []),
        ("scouting/gossip/enabled", False),
    ):
        elsewhere.insert_json5(name, json.dumps(value))
    with zenoh.open(elsewhere) as stranger, open_session() as ours, open_session() as witness:
        received: dict[str, list[bytes]] = {"stranger": [], "ours": [], "witness": []}
        for name, session in (("stranger", stranger), ("ours", ours), ("witness", witness)):
            session.declare_subscriber("test/elsewhere", keep_in(received[name]))
        deadline = time.monotonic() + PATIENCE_S
        while str(stranger.info.zid()) not in map(str, ours.info.peers_zid()):
            assert time.monotonic() < deadline, "our session does not connect to whoever answers; is the rule needed?"
            time.sleep(0.05)
        for _ in range(20):
            stranger.put("test/elsewhere", b"forged")
            ours.put("test/elsewhere", b"genuine")
            time.sleep(0.1)
        assert set(received["stranger"]) == {b"forged"}
        assert set(received["ours"]) == set(received["witness"]) == {b"genuine"}
