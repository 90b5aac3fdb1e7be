"""`perception bench recordings`: everything is measured once on a small drive, and says what it should."""

import json

import pytest

from tests.integration.conftest import Perception


@pytest.mark.timeout(600)
def test_the_quick_form_measures_everything(perception: Perception) -> None:
    said = perception("bench", "recordings", "--quick", "--threads", "1", "--json")
    assert said.code == 0, said.err
    figures = json.loads(said.out)
    drive = figures["drives"]["generated"]
    assert drive["results"]["is_equal"]
    assert drive["results"]["largest_difference"] == 0.0
    assert drive["results"]["frames"] >= 4
    assert drive["changed_streams"] == []
    assert 0 < drive["mcap_bytes"] < drive["payload_bytes"]
    assert figures["reading"]["generated"]["messages"] == drive["messages"]
    for row, readers in (("reading", {"mcap"}), ("bags", {"mcap", "rosbags", "rosbags, decoded"})):
        measured = figures[row]["generated"]
        assert all(measured[name]["messages_per_s"] > 0 for name in readers | {"perception"})
        assert all(measured[f"over {name}"] > 0 for name in readers)
    large = figures["large"]
    assert large["bytes"] >= 10_000_000
    assert 0.9 <= large["sought_share"] < 0.95
    assert large["peak_mib"] < 300
    assert large["messages"] > drive["messages"]
    assert len(figures["skipped"]) == 5
