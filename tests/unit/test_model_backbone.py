"""ResNet-50 by torchvision's names, and starting from somebody's weights."""

import pickle
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from perception.cli.weights import weights as weights_command
from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.models.blocks import speed_up
from perception.models.checkpoint import TRAINED, load_checkpoint, load_model, save_checkpoint
from perception.models.encoders.camera import PyramidEncoder
from perception.models.encoders.resnet import ResNet50
from perception.models.inference import InferenceModel
from perception.models.network import PerceptionNetwork, build_network
from perception.models.presets import preset
from perception.models.pretrained import read_backbone, start_from_backbone

SMALL_BASE = ModelConfig.model_validate({"image": {"backbone": "resnet50", "height_px": 64, "width_px": 96}})


def torchvision_resnet50() -> dict[str, Tensor]:
    """A state dict with the names and shapes of `torchvision.models.resnet50`, written down from its scheme."""
    random = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=random) * scale

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = torch.rand(channels, generator=random) * 0.4 + 0.3
        state[f"{name}.bias"] = torch.randn(channels, generator=random) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=random) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=random) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    inputs = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            for number, (outputs, of, kernel) in enumerate(
                ((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                convolution(f"{name}.conv{number}", outputs, of, kernel)
                norm(f"{name}.bn{number}", outputs)
            if block == 0:
                convolution(f"{name}.downsample.0", 4 * width, inputs, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return torchvision_resnet50()


def test_names_and_shapes_are_those_of_torchvision(state: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in ResNet50().state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith("fc.")}
    assert ours == theirs
    assert sum(tensor.numel() for name, tensor in state.items() if not name.endswith("num_batches_tracked")) == (
        25_557_032 + 53_120  # parameters as torchvision states them, and the running statistics
    )


def test_a_folded_network_says_the_same(state: dict[str, Tensor]) -> None:
    network = build_network(SMALL_BASE).eval().requires_grad_(False)
    start_from_backbone(network, state, where="test")
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    before = network.encode_cameras(images)
    speed_up(network)
    speed_up(network)
    after = network.encode_cameras(images)
    assert before.shape == (2, 4 * 6, SMALL_BASE.width)
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.camera_encoder.modules())


def test_base_is_of_nuscenes_size() -> None:
    base = preset("base")
    assert (base.image.height_px, base.image.width_px, base.image.backbone) == (256, 704, "resnet50")
    assert (base.lidar.max_points, base.lidar.sweeps, base.bev_cells) == (262_144, 10, 128)
    with torch.device("meta"):
        network = PerceptionNetwork(base)
    assert isinstance(network.camera_encoder, PyramidEncoder)
    assert 35e6 < sum(parameter.numel() for parameter in network.parameters()) < 45e6


def test_settings_that_came_later_leave_hashes_as_they_were() -> None:
    assert load_model("tiny").info.hash == "7c8a4f8c6f471cb3"
    assert load_model("small").info.hash == "45d605b262444f3c"
    other = InferenceModel(
        build_network(ModelConfig.model_validate({"lidar": {"sweeps": 2}, "seed": 5})), trained=False
    )
    same = InferenceModel(build_network(ModelConfig(seed=5)), trained=False)
    assert other.info.hash != same.info.hash
    assert (other.info.lidar_sweeps, same.info.lidar_sweeps) == (2, 1)


def test_weights_become_a_checkpoint_to_train_from(state: dict[str, Tensor], tmp_path: Path) -> None:
    file, out = tmp_path / "resnet50-0676ba61.pth", tmp_path / "start" / "base.safetensors"
    torch.save(state, file)
    result = CliRunner().invoke(weights_command, [str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    network, metadata = load_checkpoint(out)
    assert metadata == {"trained": "no", "backbone": file.name}
    assert isinstance(network.camera_encoder, PyramidEncoder)
    for name, tensor in network.camera_encoder.backbone.state_dict().items():
        torch.testing.assert_close(tensor, state[name])


def test_files_of_every_kind_are_read(tmp_path: Path) -> None:
    held = {"conv1.weight": torch.ones(2, 3), "bn1.num_batches_tracked": torch.tensor(7)}
    save_file(held, tmp_path / "plain.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in held.items()}}, tmp_path / "wrapped.pth")
    for name in ("plain.safetensors", "wrapped.pth"):
        found = read_backbone(tmp_path / name)
        assert found.keys() == held.keys()
        assert all(torch.equal(found[key], held[key]) for key in held)


def test_a_start_of_training_does_not_pass_for_trained(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "start.safetensors", build_network(ModelConfig()), {TRAINED: "no"})
    assert not load_model(str(tmp_path / "start.safetensors")).info.trained


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("trapped"),)  # type: ignore[return-value]


def test_what_is_no_resnet50_is_refused(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = build_network(SMALL_BASE)
    file = tmp_path / "trap.pth"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="more than weights"):
        read_backbone(file)
    torch.save({"state_dict": Trap()}, file)
    with pytest.raises(ModelError, match="more than weights"):
        read_backbone(file)
    assert not (tmp_path / "trapped").exists()
    torch.save([1, 2], file)
    with pytest.raises(ModelError, match="no state dict"):
        read_backbone(file)
    with pytest.raises(ModelError, match="cannot be read"):
        read_backbone(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="not known: layer9"):
        start_from_backbone(network, state | {"layer9.weight": torch.zeros(1)}, where="test")
    with pytest.raises(ModelError, match=r"missing: bn1\.weight"):
        start_from_backbone(network, {k: v for k, v in state.items() if k != "bn1.weight"}, where="test")
    with pytest.raises(ModelError, match=r"conv1\.weight is \(64, 3, 3, 3\)"):
        start_from_backbone(network, state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, where="test")
    with pytest.raises(ModelError, match="has no ResNet-50"):
        start_from_backbone(build_network(ModelConfig()), state, where="test")
