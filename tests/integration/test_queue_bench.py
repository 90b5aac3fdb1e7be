"""`perception bench queue` on small measurements: every figure is there."""

import json
from pathlib import Path

from click.testing import CliRunner

from perception.cli.bench import bench
from tests.contract.brokers import NatsServer


def test_it_measures_the_queues_it_is_given_and_says_what_it_cannot(tmp_path: Path) -> None:
    arguments = ["queue", "--json", "--seconds", "0.1", "--consumers", "1", "--consumers", "2"]
    urls = [f"mcap:{tmp_path / 'results.mcap'}", f"mcap:{tmp_path / 'none' / 'results.mcap'}", "memory:results"]
    outcome = CliRunner().invoke(bench, [*arguments, *(word for url in urls for word in ("--queue", url))])
    assert outcome.exit_code == 0, outcome.output
    figures = json.loads(outcome.stdout.splitlines()[-1])
    assert 19_000 < figures["payload_bytes"] < 22_000
    assert set(figures["queues"]) == {urls[0], urls[2]}
    assert "No such file" in figures["left_out"][urls[1]]
    for url, ways in ((urls[0], {"ours", "bare"}), (urls[2], {"ours"})):
        measured = figures["queues"][url]
        assert set(measured["latency_ms"]) == {"10 Hz", "100 Hz"}
        assert all(ways <= set(latency) for latency in measured["latency_ms"].values())
        assert set(measured["rate_per_s"]) == {"1", "2"}
        assert all(rates[way] > 0 for rates in measured["rate_per_s"].values() for way in ways)
        assert set(measured["stalled"]) == ways
    assert list(tmp_path.glob("*.bare")) == []


def test_a_broker_that_keeps_what_was_measured_before_is_measured_again(tmp_path: Path) -> None:
    """It would drop results that it has had already."""
    server = NatsServer(tmp_path)
    server.start()
    url = f"nats://127.0.0.1:{server.port}/results"
    try:
        outcome = CliRunner().invoke(bench, ["queue", "--json", "--seconds", "0.1", "--consumers", "1", "--queue", url])
    finally:
        server.kill()
    figures = json.loads(outcome.stdout.splitlines()[-1])
    assert figures["left_out"] == {}
    assert figures["queues"][url]["rate_per_s"]["1"]["ours"] > 0
