"""Settings of `perception serve`: what is filled in, and what is refused with the field's name."""

from pathlib import Path

import pytest
import yaml

from perception.config.serving import ServeConfig, load_serve_config
from perception.core.errors import ConfigError

ANNA = {"name": "anna", "source": "synthetic:"}


def load(tmp_path: Path, **settings: object) -> ServeConfig:
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"vehicles": [ANNA], **settings}))
    return load_serve_config(str(path))


def test_the_example_is_what_the_package_ships() -> None:
    config = load_serve_config("example", ("http.port=0",))
    assert [vehicle.name for vehicle in config.vehicles] == ["anna", "berta"]
    assert config.http.host == "127.0.0.1"
    assert config.service_of(config.vehicles[1]).sync.deadline_ms == 120


def test_a_vehicle_has_what_all_have_and_its_own(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        vehicles=[{**ANNA, "settings": {"sync": {"deadline_ms": 80}}}, {"name": "berta", "source": "x"}],
        service={"sync": {"deadline_ms": 100, "tolerance_ms": 40}, "queue": {"history": 7}},
    )
    anna, berta = (config.service_of(vehicle) for vehicle in config.vehicles)
    assert (anna.sync.deadline_ms, anna.sync.tolerance_ms) == (80, 40)
    assert (berta.sync.deadline_ms, berta.sync.tolerance_ms) == (100, 40)
    assert anna.queue.url == "zenoh:perception/anna/results"
    assert (anna.queue.history, anna.queue.when_full) == (7, "drop")


def test_a_queue_that_is_told_to_wait_waits(tmp_path: Path) -> None:
    config = load(tmp_path, service={"queue": {"when_full": "wait"}})
    assert config.service_of(config.vehicles[0]).queue.when_full == "wait"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vehicles": []}, "vehicles: "),
        ({"vehicles": [ANNA, ANNA]}, "name 'anna' is used twice"),
        ({"vehicles": [ANNA, {"name": "b", "source": "x", "queue": "zenoh:perception/anna/results"}]}, "is used twice"),
        ({"vehicles": [{**ANNA, "name": "an/na"}]}, r"vehicles\.0\.name: "),
        ({"vehicles": [{**ANNA, "sauce": 1}]}, r"vehicles\.0\.sauce: no such field; known here: format, loop, name"),
        ({"vehicles": [{**ANNA, "rate": 0}]}, r"vehicles\.0\.rate: "),
        ({"vehicles": [{**ANNA, "settings": {"model": {"name": "base"}}}]}, "model is shared by all vehicles"),
        (
            {"vehicles": [{**ANNA, "settings": {"ladder": {"small_model": "tiny"}}}]},
            "small_model is shared by all vehicles",
        ),
        ({"vehicles": [{**ANNA, "settings": {"runtime": {"threads": 1}}}]}, r"runtime\.threads is shared"),
        (
            {"vehicles": [{**ANNA, "settings": {"sync": {"deadlin_ms": 1}}}]},
            r"vehicle anna: settings\.sync\.deadlin_ms",
        ),
        ({"http": {"host": "0.0.0.0"}}, "host 0.0.0.0 can be reached by others: set token_file"),
        ({"http": {"host": "vehicle.example"}}, "can be reached by others"),
        ({"http": {"port": 70000}}, r"http\.port: "),
        ({"reconnect": {"first_s": 9, "longest_s": 1}}, "longest_s 1.0 is shorter than first_s 9.0"),
        ({"logs": {"level": "loud"}}, r"logs\.level: "),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **settings)


def test_other_addresses_need_a_token(tmp_path: Path) -> None:
    assert not load(tmp_path, http={"host": "0.0.0.0", "token_file": "token"}).http.is_loopback
    for host in ("127.0.0.2", "::1", "localhost"):
        assert load(tmp_path, http={"host": host}).http.is_loopback
