"""Encoders by another runtime on a CPU, from ONNX files; fusion by torch, which is faster at it than they are.

(They would gather the samples of the camera lift one by one, and OpenVINO counts in 32 bits where queries are chosen.)
The files are made once for each model: `perception export MODEL --for-service`.
"""

import importlib.util
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.errors import ModelError
from perception.models.backends.torch_backend import TorchBackend
from perception.models.network import PerceptionNetwork
from perception.models.tensors import FusionInputs, FusionTensors

Array = NDArray[Any]
Runner = Callable[[Sequence[Array]], Array]

ENCODERS: Final = ("camera", "lidar", "radar")
FOLDER_VARIABLE: Final = "PERCEPTION_EXPORTS"


def export_folder(model_hash: str) -> Path:
    """Where the files for a model are kept: `$PERCEPTION_EXPORTS`, else the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get(FOLDER_VARIABLE) or Path(cache) / "perception" / "exports"
    return Path(root) / model_hash


class ForeignEncoders:
    """A backend whose encoders are ONNX files in `folder`. Batches are taken row by row: a CPU gains nothing by them.

    Raises ModelError where a file is not there, is damaged or is of another model.
    """

    name: str

    def __init__(self, network: PerceptionNetwork, folder: Path, model_hash: str) -> None:
        self._fusion = TorchBackend(network)
        missing = [name for name in ENCODERS if not (folder / f"{name}.onnx").is_file()]
        if missing:
            raise ModelError(
                f"model.backend {self.name}: {folder} lacks {', '.join(missing)}; "
                "make the files with `perception export MODEL --for-service`"
            )
        runners = {name: self._opened(folder / f"{name}.onnx", model_hash) for name in ENCODERS}
        self._camera, self._lidar, self._radar = (runners[name] for name in ENCODERS)

    @property
    def device(self) -> torch.device:
        return self._fusion.device

    @property
    def precision(self) -> str:
        return "float32"

    def lane(self, sensor: str) -> AbstractContextManager[None]:
        return nullcontext()

    def wait_for(self, features: Sequence[Tensor]) -> None:
        """Nothing is under way: every call is done when it returns."""

    def encode_cameras(self, images: Tensor) -> Tensor:
        return _by_row(self._camera, images)

    def encode_lidar(self, points: Tensor, count: Tensor) -> Tensor:
        return _by_row(self._lidar, points, count)

    def encode_radar(self, points: Tensor, count: Tensor) -> Tensor:
        return _by_row(self._radar, points, count)

    def fuse(self, inputs: FusionInputs) -> FusionTensors:
        return self._fusion.fuse(inputs)

    def _opened(self, path: Path, model_hash: str) -> Runner:
        try:
            runner, found = self._open(path, torch.get_num_threads())
        except Exception as error:  # each runtime has its own kinds of error for a file that it does not like
            raise ModelError(f"{path}: {self.name} cannot load it ({str(error).splitlines()[0]})") from None
        if found != model_hash:
            raise ModelError(f"{path}: is of model {found or '?'}, not of {model_hash}; export it again")
        return runner

    @abstractmethod
    def _open(self, path: Path, threads: int) -> tuple[Runner, str]:
        """What runs a file on arrays, and the hash of the model that the file names."""


class OnnxRuntimeBackend(ForeignEncoders):
    """Encoders by ONNX Runtime."""

    name = "onnxruntime"

    def _open(self, path: Path, threads: int) -> tuple[Runner, str]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # Threads that spin while they wait would take the cores from torch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]

        def run(arrays: Sequence[Array]) -> Array:
            output: Array = session.run(None, dict(zip(names, arrays, strict=True)))[0]
            return output

        return run, session.get_modelmeta().custom_metadata_map.get("hash", "")


class OpenvinoBackend(ForeignEncoders):
    """Encoders by OpenVINO, in float32 also where the processor could do less."""

    name = "openvino"

    def _open(self, path: Path, threads: int) -> tuple[Runner, str]:
        import openvino

        model = openvino.Core().read_model(str(path))
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        found = ""
        if model.has_rt_info(["framework", "hash"]):
            found = str(model.get_rt_info(["framework", "hash"]).astype(str))

        def run(arrays: Sequence[Array]) -> Array:
            # A copy: what the request holds is overwritten by the next one.
            return np.array(compiled(list(arrays))[0])

        return run, found


FOREIGN: Final[dict[str, type[ForeignEncoders]]] = {"openvino": OpenvinoBackend, "onnxruntime": OnnxRuntimeBackend}
"""By name, the fastest first."""


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _by_row(run: Runner, *inputs: Tensor) -> Tensor:
    arrays = [one.numpy() for one in inputs]
    rows = [run([array[i : i + 1] for array in arrays]) for i in range(len(inputs[0]))]
    return torch.from_numpy(np.concatenate(rows) if len(rows) != 1 else rows[0])
