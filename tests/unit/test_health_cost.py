"""The cost of the sensor checks: every part has its row, and the table names them."""

from perception.cli.bench_health import as_table
from perception.evaluation.health_cost import health_cost
from perception.sources.synthetic import SyntheticSource


def test_every_part_has_a_cost() -> None:
    drive = SyntheticSource(duration_s=0.6)
    report = health_cost(list(drive.messages()), drive.rig, rounds=1)
    parts = report["cpu_ms_per_frame"]
    assert report["frames"] > 0
    assert list(parts) == ["times and state of all sensors", "images", "sweeps", "scans", "calibration", "all"]
    assert parts["all"] > 0
    assert all(f"| {name} | " in as_table({"drive": "made up", **report}) for name in parts)
