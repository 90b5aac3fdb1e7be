"""Exported files say what the network says, and serve as backends."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.config.schema import BackendChoice, ImageConfig, LidarConfig, ModelConfig, RadarConfig
from perception.core.errors import ModelError
from perception.models.backends.foreign import export_folder
from perception.models.backends.open import choose_backend, open_backend
from perception.models.backends.transfer import answer_of
from perception.models.bench_frames import surround_request
from perception.models.blocks import speed_up
from perception.models.export import INPUTS, OUTPUTS, export
from perception.models.export_check import check_export
from perception.models.geometry import ViewGeometry
from perception.models.inference import InferenceModel
from perception.models.network import PerceptionNetwork, build_network
from perception.models.tensors import EGO_FIELDS, FusionInputs

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MINUTE = ModelConfig(
    name="minute",
    image=ImageConfig(height_px=32, width_px=64, channels=(8, 8, 16, 16)),
    lidar=LidarConfig(max_points=512, canvas=32, pillar_m=3.2, channels=(8, 16)),
    radar=RadarConfig(max_points=32, channels=8),
    bev_cells=16,
    memory_cells=8,
    width=16,
    heads=2,
    feedforward=32,
    layers=1,
    heatmap_queries=8,
    learned_queries=2,
    seed=3,
)


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return InferenceModel(build_network(MINUTE), trained=False)


@pytest.fixture(scope="module")
def network() -> PerceptionNetwork:
    network = build_network(MINUTE).eval().requires_grad_(False)
    speed_up(network)
    return network


@pytest.fixture(scope="module")
def onnx_folder(model: InferenceModel, network: PerceptionNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exports")
    export(network, model.info, root / model.info.hash, "onnx")
    return root


def inputs(cameras: int, lidars: int, seed: int) -> FusionInputs:
    random = torch.Generator().manual_seed(seed)
    views = ViewGeometry(MINUTE).build((surround_request().cameras * 2)[:cameras])
    cells, tokens = MINUTE.bev_cells**2, views.rays.shape[1]

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return FusionInputs(
        camera_features=noise(1, cameras, tokens, MINUTE.width),
        camera_present=torch.rand(1, cameras, generator=random) > 0.2,
        camera_rays=torch.from_numpy(views.rays)[None],
        camera_origin_m=torch.from_numpy(views.origin_m)[None],
        camera_age_s=noise(1, cameras) * 0.05,
        lift_camera=torch.from_numpy(views.lift_camera)[None],
        lift_uv=torch.from_numpy(views.lift_uv)[None],
        lift_depth_m=torch.from_numpy(views.lift_depth_m)[None],
        lift_valid=torch.from_numpy(views.lift_valid)[None],
        lidar_features=noise(1, lidars, cells, MINUTE.width),
        lidar_present=torch.ones(1, lidars, dtype=torch.bool),
        lidar_age_s=noise(1, lidars) * 0.05,
        radar_features=noise(1, cells, MINUTE.width),
        radar_present=torch.tensor([True]),
        radar_age_s=noise(1) * 0.05,
        ego=noise(1, len(EGO_FIELDS)),
    )


def test_onnx_holds_its_tolerance(network: PerceptionNetwork, model: InferenceModel, onnx_folder: Path) -> None:
    folder = onnx_folder / model.info.hash
    found = check_export(network, folder, "onnx", ("camera", "lidar", "radar", "fusion"))
    assert set(found) == {"camera", "lidar", "radar", "fusion"}
    assert max(found.values()) < 1e-3
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["hash"] == model.info.hash
    assert ModelConfig.model_validate_json(metadata["config"]) == MINUTE


@pytest.mark.parametrize(("cameras", "lidars"), [(1, 1), (2, 1), (6, 1), (7, 3)])
def test_fusion_takes_any_rig(
    network: PerceptionNetwork, model: InferenceModel, onnx_folder: Path, cameras: int, lidars: int
) -> None:
    session = onnxruntime.InferenceSession(str(onnx_folder / model.info.hash / "fusion.onnx"))
    given = inputs(cameras, lidars, seed=cameras)
    outputs = session.run(None, {name: getattr(given, name).numpy() for name in INPUTS})
    with torch.inference_mode():
        expected = answer_of(network.fuse(given))
    for name, output in zip(OUTPUTS, outputs, strict=True):
        np.testing.assert_allclose(output, getattr(expected, name).numpy(), rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_file_of_other_weights_is_noticed(model: InferenceModel, onnx_folder: Path) -> None:
    other = build_network(MINUTE.model_copy(update={"seed": 4})).eval().requires_grad_(False)
    with pytest.raises(ModelError, match=r"camera\.onnx: differs"):
        check_export(other, onnx_folder / model.info.hash, "onnx", ("camera",))


def test_an_archive_of_torch_holds_its_tolerance(
    network: PerceptionNetwork, model: InferenceModel, tmp_path: Path
) -> None:
    files = export(network, model.info, tmp_path, "torch", ("camera", "radar"))
    assert [file.name for file in files] == ["camera.pt2", "radar.pt2", "metadata.json"]
    assert max(check_export(network, tmp_path, "torch", ("camera", "radar")).values()) < 1e-3
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "camera.pt2", extra_files=extra)
    assert json.loads(extra["metadata.json"])["hash"] == model.info.hash


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_backend_from_files_agrees(
    name: str, model: InferenceModel, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("PERCEPTION_EXPORTS", str(onnx_folder))
    network = build_network(MINUTE)
    choice = BackendChoice.model_validate({"backend": name, "device": "cpu"})
    backend = open_backend(network, choice, model.info.hash)
    assert (backend.name, backend.precision, backend.device.type) == (name, "float32", "cpu")
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 32, 64), dtype=torch.uint8, generator=random)
    points = torch.rand(2, 512, 5, generator=random) * 40 - 20
    count = torch.tensor([500, 0])
    for found, expected in (
        (backend.encode_cameras(images), model.backend.encode_cameras(images)),
        (backend.encode_lidar(points, count), model.backend.encode_lidar(points, count)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    given = inputs(6, 1, seed=0)
    one, other = backend.fuse(given), model.backend.fuse(given)
    for field in fields(one):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=1e-4, atol=1e-4)
    assert choose_backend(BackendChoice(), torch.device("cpu"), model.info.hash) in ("onnxruntime", "openvino")


def test_files_that_are_not_there_or_of_another_model_are_named(
    model: InferenceModel, onnx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = BackendChoice(backend="onnxruntime", device="cpu")
    monkeypatch.setenv("PERCEPTION_EXPORTS", str(tmp_path))
    assert choose_backend(BackendChoice(), torch.device("cpu"), model.info.hash) == "torch"
    with pytest.raises(ModelError, match=r"lacks camera, lidar, radar; make the files with `perception export"):
        open_backend(build_network(MINUTE), choice, model.info.hash)
    (tmp_path / ("f" * 16)).symlink_to(onnx_folder / model.info.hash)
    with pytest.raises(ModelError, match=f"is of model {model.info.hash}, not of ffff"):
        open_backend(build_network(MINUTE), choice, "f" * 16)
    broken = export_folder("e" * 16)
    broken.mkdir()
    for stage in ("camera", "lidar", "radar"):
        (broken / f"{stage}.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="onnxruntime cannot load it"):
        open_backend(build_network(MINUTE), choice, "e" * 16)


def test_a_folder_that_cannot_be_written_is_named(
    network: PerceptionNetwork, model: InferenceModel, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be written"):
        export(network, model.info, tmp_path / "file", "onnx", ("radar",))
