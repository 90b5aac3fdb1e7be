"""A handful of kills of each kind of process; `make chaos` does two hundred."""

from pathlib import Path

from tests.chaos.attack import attack, undisturbed_lap

FRAMES = 12


def test_kills_of_driver_broker_and_consumer_lose_and_double_nothing(tmp_path: Path) -> None:
    whole = undisturbed_lap(tmp_path / "whole", placement="local", frames=FRAMES)
    assert len(whole) == FRAMES
    report = attack(
        tmp_path / "attacked",
        placement="local",
        targets=("driver", "broker", "consumer"),
        kills=4,
        seed=3,
        frames=FRAMES,
        undisturbed=whole,
        options=("--rate", "2"),
    )
    assert sum(report["kills"].values()) == 4, report
    assert report["service_restarts"] == report["kills"]["driver"] > 0, report
    wrong = {name: report[name] for name in ("lost", "doubled", "changed", "disordered")}
    assert wrong == dict.fromkeys(wrong, 0), report
    assert report["exit_code"] == 1, "it was interrupted"
