"""The network's four stages as ONNX files or torch.export archives, with what they are in a file beside them."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.core.stages import FuseRequest, ModelInfo
from perception.models.backends.transfer import answer_of
from perception.models.bench_frames import surround_request
from perception.models.geometry import ViewGeometry
from perception.models.network import PerceptionNetwork
from perception.models.preprocess import LIDAR_FIELDS, RADAR_FIELDS
from perception.models.tensors import EGO_FIELDS, FusionInputs, FusionTensors

Format = Literal["onnx", "torch"]

EXPORT_FORMAT: Final = "perception-export-1"
OPSET: Final = 18
SUFFIXES: Final = {"onnx": ".onnx", "torch": ".pt2"}
METADATA: Final = "metadata.json"
STAGES: Final = ("camera", "lidar", "radar", "fusion")
INPUTS: Final = tuple(field.name for field in fields(FusionInputs))
OUTPUTS: Final = tuple(
    field.name for field in fields(FusionTensors) if field.name not in ("curve_logits", "depth_logits")
)
"""What fusion says, in this order; as `FusionTensors`, of the decoder's layers the last alone."""

_CAMERA_DIMENSION: Final = 1
_EXAMPLE_CAMERAS, _EXAMPLE_LIDARS = 3, 2  # a dimension of 1 would be taken for a constant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """One part of the network as a module of tensors. names: of inputs and outputs. dynamic: by input, which of its
    dimensions may differ from run to run."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[dict[int, Any], ...]


def export(
    network: PerceptionNetwork, info: ModelInfo, folder: Path, form: Format, names: Sequence[str] = STAGES
) -> list[Path]:
    """Write stages of `network` (in eval mode, best with norms folded) into `folder`, and `metadata.json`.

    Fusion takes one bundle of any number of cameras and lidars, at least one slot of each; what is absent is marked so.
    Encoders take one image or cloud. Raises ModelError where the folder cannot be written, or what an export needs is
    not installed.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stages = stages_of(network)
        for name in names:
            stage = stages[name]
            path = folder / f"{name}{SUFFIXES[form]}"
            program = exported(stage)
            if form == "onnx":
                write_onnx(program, stage, path, metadata_of(network.config, info))
            else:
                # The archive carries the same metadata as a file within.
                extra = {METADATA: json.dumps(metadata_of(network.config, info))}
                torch.export.save(program, path, extra_files=extra)
            written.append(path)
        described = metadata_of(network.config, info) | {"form": form, "files": [path.name for path in written]}
        (folder / METADATA).write_text(json.dumps(described, indent=1), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written ({error.strerror})") from None
    return [*written, folder / METADATA]


def metadata_of(config: ModelConfig, info: ModelInfo) -> dict[str, str]:
    """What an exported file says of itself."""
    return {
        "format": EXPORT_FORMAT,
        "model": info.name,
        "hash": info.hash,
        "trained": str(info.trained).lower(),
        "config": config.model_dump_json(),
        "torch": torch.__version__,
    }


def stages_of(network: PerceptionNetwork) -> dict[str, Stage]:
    """The parts that are exported, each with an example of its inputs."""
    config = network.config
    images = torch.zeros(1, 3, config.image.height_px, config.image.width_px, dtype=torch.uint8)
    clouds = [
        torch.zeros(1, cap, len(names))
        for cap, names in ((config.lidar.max_points, LIDAR_FIELDS), (config.radar.max_points, RADAR_FIELDS))
    ]
    count = torch.tensor([7])
    fusion = _example_inputs(config)
    cameras, lidars = Dim("cameras", min=1, max=64), Dim("lidars", min=1, max=64)
    free = tuple(
        {_CAMERA_DIMENSION: cameras if name.startswith("camera_") else lidars}
        if name.startswith(("camera_", "lidar_"))
        else {}
        for name in INPUTS
    )
    return {
        "camera": _encoder(_Call(network, network.encode_cameras), (images,), ("images",)),
        "lidar": _encoder(_Call(network, network.encode_lidar), (clouds[0], count), ("points", "count")),
        "radar": _encoder(_Call(network, network.encode_radar), (clouds[1], count), ("points", "count")),
        "fusion": Stage(
            module=_Call(network, lambda *tensors: _answer(network, tensors)),
            example=tuple(getattr(fusion, name) for name in INPUTS),
            inputs=INPUTS,
            outputs=OUTPUTS,
            dynamic=free,
        ),
    }


def exported(stage: Stage) -> ExportedProgram:
    """A stage as a graph of torch's own operations."""
    with torch.no_grad(), _quiet():
        return torch.export.export(stage.module.eval(), stage.example, dynamic_shapes=(stage.dynamic,))


def write_onnx(program: ExportedProgram, stage: Stage, path: Path, metadata: dict[str, str]) -> None:
    """Write a graph as ONNX, its weights inside. Raises ModelError where onnx or onnxscript are not installed."""
    try:
        import onnx  # noqa: F401 - torch asks for both, less clearly
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"export to ONNX needs {error.name}; pip install 'perception[export]'") from None
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(stage.inputs),
            output_names=list(stage.outputs),
            verbose=False,
        )
        assert made is not None
        made.model.metadata_props.update(metadata)
        made.save(str(path), external_data=False)


class _Call(nn.Module):
    """A function of a network as a module of its own, whose weights are the network's."""

    def __init__(self, network: PerceptionNetwork, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self._function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self._function(*tensors)


def _encoder(module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[str, ...]) -> Stage:
    return Stage(module=module, example=example, inputs=inputs, outputs=("features",), dynamic=({},) * len(example))


def _answer(network: PerceptionNetwork, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    answer = answer_of(network.fuse(FusionInputs(**dict(zip(INPUTS, tensors, strict=True)))))
    return tuple(getattr(answer, name) for name in OUTPUTS)


def _example_inputs(config: ModelConfig) -> FusionInputs:
    """A bundle of the right shapes; what is in it does not matter."""
    request: FuseRequest = surround_request()
    views = ViewGeometry(config).build(request.cameras[:_EXAMPLE_CAMERAS])
    cells, tokens = config.bev_cells**2, views.rays.shape[1]
    n, lidars = _EXAMPLE_CAMERAS, _EXAMPLE_LIDARS
    return FusionInputs(
        camera_features=torch.zeros(1, n, tokens, config.width),
        camera_present=torch.ones(1, n, dtype=torch.bool),
        camera_rays=torch.from_numpy(views.rays)[None],
        camera_origin_m=torch.from_numpy(views.origin_m)[None],
        camera_age_s=torch.zeros(1, n),
        lift_camera=torch.from_numpy(views.lift_camera)[None],
        lift_uv=torch.from_numpy(views.lift_uv)[None],
        lift_depth_m=torch.from_numpy(views.lift_depth_m)[None],
        lift_valid=torch.from_numpy(views.lift_valid)[None],
        lidar_features=torch.zeros(1, lidars, cells, config.width),
        lidar_present=torch.ones(1, lidars, dtype=torch.bool),
        lidar_age_s=torch.zeros(1, lidars),
        radar_features=torch.zeros(1, cells, config.width),
        radar_present=torch.ones(1, dtype=torch.bool),
        radar_age_s=torch.zeros(1),
        ego=torch.zeros(1, len(EGO_FIELDS)),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on packages of its own that are not installed, and on how it works inside."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
