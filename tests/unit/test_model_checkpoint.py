"""Checkpoints: what comes back, and what is refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.models.checkpoint import load_checkpoint, load_model, read_config, save_checkpoint
from perception.models.inference import model_hash
from perception.models.network import build_network
from tests.training_runs import MINI

SEEDED = ModelConfig(seed=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "seeded.safetensors"
    save_checkpoint(path, build_network(SEEDED), {"step": "120", "data": "none"})
    return path


def test_weights_configuration_and_metadata_come_back(saved: Path) -> None:
    network, metadata = load_checkpoint(saved)
    assert metadata == {"step": "120", "data": "none"}
    assert network.config == SEEDED == read_config(saved)
    assert not network.training
    assert model_hash(network) == model_hash(build_network(SEEDED))
    for name, tensor in build_network(SEEDED).state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_a_loaded_model_says_that_it_is_trained_and_which_it_is(saved: Path) -> None:
    loaded, seeded = load_model(str(saved)), load_model("tiny", ModelConfig(seed=4))
    assert loaded.info.trained
    assert len(loaded.info.hash) == 16
    assert int(loaded.info.hash, 16) >= 0
    assert loaded.info.hash != seeded.info.hash
    assert loaded.info.hash == load_model(str(saved)).info.hash


def test_one_weight_changes_the_hash() -> None:
    network = build_network(SEEDED)
    before = model_hash(network)
    with torch.no_grad():
        network.query_init.learned_place[0, 0] += 1e-3
    assert model_hash(network) != before


def test_settings_that_do_not_shape_weights_may_differ(saved: Path) -> None:
    model = load_model(str(saved), ModelConfig(score_threshold=0.3, max_detections=10))
    assert (model.config.score_threshold, model.config.max_detections, model.config.seed) == (0.3, 10, 3)


def test_another_shape_is_refused_and_named(saved: Path) -> None:
    with pytest.raises(ModelError, match="layers is 2, wanted 3"):
        load_checkpoint(saved, ModelConfig(layers=3))
    with pytest.raises(ModelError, match="width is 96, wanted 128"):
        load_model(str(saved), ModelConfig(width=128))


def test_only_chosen_settings_replace_those_of_a_preset() -> None:
    small = load_model("small", ModelConfig())
    assert (small.info.name, small.config.width, small.info.trained) == ("small", 128, False)
    chosen = load_model("small", ModelConfig.model_validate({"score_threshold": 0.2, "lidar": {"max_points": 8000}}))
    assert (chosen.config.score_threshold, chosen.config.lidar.max_points) == (0.2, 8000)
    assert chosen.config.lidar.channels == small.config.lidar.channels
    with pytest.raises(ModelError, match="do not go together"):
        load_model("small", ModelConfig(heads=3))


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("trapped"),)  # type: ignore[return-value]


def test_a_checkpoint_is_no_pickle_whatever_the_length_of_its_header(tmp_path: Path) -> None:
    """The first byte is the length's lowest: 0x80 in one file of 32, which is how a pickle begins too."""
    first, network = set(), build_network(MINI)
    for length in range(0, 256, 8):
        path = tmp_path / f"{length}.safetensors"
        save_checkpoint(path, network, {"note": "x" * length})
        first.add(path.read_bytes()[0])
        assert load_model(str(path)).info.trained
        path.unlink()
    assert 0x80 in first


def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        plain = tmp_path / "weights.safetensors"
        plain.write_bytes(pickle.dumps(Trap(), protocol=protocol))
        with pytest.raises(ModelError, match="pickle"):
            load_model(str(plain))
    archive = tmp_path / "weights.pt"
    torch.save(build_network(SEEDED).state_dict(), archive)
    with pytest.raises(ModelError, match="pickle"):
        load_model(str(archive))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\x10\x00\x00\x00\x00\x00\x00\x00garbage", bytes(64)])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.safetensors"):
        load_model(str(path))


def test_every_cut_of_a_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in (8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_checkpoint(path)


def test_weights_of_somebody_else_are_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="header"):
        load_model(str(path))
    weights = load_file(saved)
    header = {"format": "perception-checkpoint-1", "config": SEEDED.model_dump_json(), "metadata": "{}"}
    save_file({name: tensor for name, tensor in weights.items() if "stem" not in name}, path, metadata=header)
    with pytest.raises(ModelError, match=r"camera_encoder\.stem"):
        load_model(str(path))
    save_file(weights, path, metadata=header | {"config": '{"depth": 3}'})
    with pytest.raises(ModelError, match="depth"):
        load_model(str(path))


def test_a_weight_of_another_shape_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "shape.safetensors"
    weights = load_file(saved) | {"memory.null": torch.zeros(1, 1, 7)}
    header = {"format": "perception-checkpoint-1", "config": SEEDED.model_dump_json(), "metadata": "{}"}
    save_file(weights, path, metadata=header)
    with pytest.raises(ModelError, match=r"memory\.null"):
        load_model(str(path))


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    network = build_network(SEEDED)
    with torch.no_grad():
        network.memory.null.fill_(float("nan"))
    save_checkpoint(tmp_path / "nan.safetensors", network)
    with pytest.raises(ModelError, match="not finite"):
        load_model(str(tmp_path / "nan.safetensors"))


def test_tiny_comes_with_weights() -> None:
    shipped = load_model("tiny")
    assert shipped.info.trained
    assert shipped.info.hash != model_hash(build_network(shipped.config))
    with pytest.raises(ModelError, match="width is 96, wanted 128"):
        load_model("tiny", ModelConfig(width=128))


def test_half_precision_takes_half_the_bytes_and_loads_as_whole(saved: Path, tmp_path: Path) -> None:
    whole = build_network(SEEDED)
    save_checkpoint(tmp_path / "half.safetensors", whole, dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * saved.stat().st_size
    network, _ = load_checkpoint(tmp_path / "half.safetensors")
    for name, tensor in whole.state_dict().items():
        loaded = network.state_dict()[name]
        assert loaded.dtype == tensor.dtype
        torch.testing.assert_close(loaded, tensor, rtol=1e-3, atol=1e-7)


def test_missing_files_and_unknown_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(str(tmp_path / "none.safetensors"))
    with pytest.raises(ModelError, match="no model is called 'gigantic'"):
        load_model("gigantic")
