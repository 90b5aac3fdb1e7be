"""Records of MCAP drives: those written before a field came are read, and broken ones refused."""

import pytest

from perception.core.errors import PayloadError
from perception.core.messages import Command, Signal
from perception.formats.mcap_records import read_route

BEFORE_TARGETS = b'{"capture_ns":5,"command":"left","speed_limit_mps":8.3,"signal":"red","distance_m":12.0'


def test_a_route_written_before_targets_has_none() -> None:
    route = read_route(BEFORE_TARGETS + b"}", "route", 7)
    assert (route.command, route.signal, route.distance_m) == (Command.LEFT, Signal.RED, 12.0)
    assert route.target_m is None


@pytest.mark.parametrize(("target", "reason"), [(b"[1.0]", "2 numbers, got 1"), (b'"here"', "RouteRecord")])
def test_a_target_that_is_no_place_is_refused(target: bytes, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        read_route(BEFORE_TARGETS + b',"target_m":' + target + b"}", "route", 7)
