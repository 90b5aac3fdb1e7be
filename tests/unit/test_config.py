"""Settings from files and `--set`, and what is said when they are wrong."""

from pathlib import Path

import pytest

from perception.config.load import load_service_config
from perception.config.paths import config_dir, find_config
from perception.core.errors import ConfigError


def test_defaults_need_no_file() -> None:
    config = load_service_config()
    assert config.sync.reference == "sweeps"
    assert config.queue.url == "zenoh:perception/results"


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("sync: {deadline_ms: 90, tolerance_ms: 40}\n")
    config = load_service_config(str(file), ["sync.deadline_ms=70", "sync.sensors.CAM_FRONT.offset_ms=-5"])
    assert (config.sync.deadline_ms, config.sync.tolerance_ms) == (70, 40)
    assert config.sync.sensors["CAM_FRONT"].offset_ms == -5


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sync.deadlin_ms=70", "sync.deadlin_ms: no such field; known here: .*deadline_ms"),
        ("sync.deadline_ms=fast", "sync.deadline_ms: .*valid number.*'fast'"),
        ("sync.deadline_ms=-1", "sync.deadline_ms: .*greater than or equal to 0"),
        ("runtime.placement=cloud", "runtime.placement: .*'colocated'"),
        ("sync", "--set takes a.b=c"),
        ("sync.reference.x=1", "sync.reference"),
    ],
)
def test_a_wrong_override_names_the_field_and_the_remedy(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_service_config(None, [override])


@pytest.mark.parametrize(
    ("text", "says"),
    [("sync: [", "not valid YAML"), ("- 1", "mapping"), ("sinc: {}", "sinc: no such field"), ("\x00", "YAML")],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_service_config(str(file))
    assert "broken.yaml" in str(caught.value)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    shipped = sorted(file.stem for file in (config_dir() / "service").glob("*.yaml"))
    assert shipped
    with pytest.raises(ConfigError, match=shipped[0]):
        load_service_config("no-such-service")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no configuration file nowhere\.yaml"):
        find_config("service", "nowhere.yaml")


def test_shipped_settings_are_valid() -> None:
    shipped = {file.stem: load_service_config(file.stem) for file in (config_dir() / "service").glob("*.yaml")}
    assert shipped["default"] == load_service_config()
    assert shipped["keyframes"].sync.reference == "keyframes"


def test_a_problem_is_told_of_the_file_or_of_the_override_that_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("sync: {deadline_ms: -1}\nqueue: {history: many}\n")
    with pytest.raises(ConfigError) as caught:
        load_service_config(str(file), ["sync.tolerance_ms=.inf", "queue.history=1"])
    told = str(caught.value)
    assert f"{file}: sync.deadline_ms: " in told
    assert "sync.tolerance_ms=.inf: sync.tolerance_ms: " in told
    assert "queue" not in told
