"""Backends: the same answer in half precision, from recordings and with padded shapes; lanes and transfers."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from perception.config.schema import BackendChoice
from perception.core.errors import ConfigError, ModelError
from perception.models.backends.graphs import MAX_RECORDINGS, Recorded
from perception.models.backends.lanes import Lanes
from perception.models.backends.open import choose_backend, choose_device, open_backend
from perception.models.backends.precision import EXACT, choose_precision
from perception.models.backends.shapes import pad_rows, padded_inputs, round_up
from perception.models.backends.torch_backend import TorchBackend
from perception.models.bench_frames import surround_request
from perception.models.checkpoint import load_network
from perception.models.inference import InferenceModel
from perception.models.network import PerceptionNetwork
from perception.models.tensors import FusionTensors
from perception.pipeline.encoded import Encoded
from tests.model_samples import noise_cloud, noise_inputs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> PerceptionNetwork:
    return load_network("tiny")[0]


@dataclass
class EagerRecording:
    """Stands for a CUDA graph: fixed memory in and out, run again when replayed."""

    function: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = ()
    replays: int = 0

    def __post_init__(self) -> None:
        self.outputs = tuple(output.clone() for output in self.function(*self.inputs))

    def replay(self) -> None:
        self.replays += 1
        for held, made in zip(self.outputs, self.function(*self.inputs), strict=True):
            held.copy_(made)


def assert_same(found: FusionTensors, expected: FusionTensors, tolerance: float) -> None:
    for field in fields(expected):
        torch.testing.assert_close(
            getattr(found, field.name), getattr(expected, field.name), rtol=tolerance, atol=tolerance, msg=field.name
        )


def test_the_backend_says_what_the_network_says(network: PerceptionNetwork) -> None:
    inputs = noise_inputs(0)
    with torch.inference_mode():
        expected = network.fuse(inputs)
    found = TorchBackend(network).fuse(inputs)
    for name in ("heat_logits", "dense_boxes", "mode_logits", "waypoints_m", "query_cell"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.boxes[-1], rtol=1e-4, atol=1e-4)
    assert len(found.boxes) == 1


def test_absent_sensors_and_bundles_that_round_up_change_nothing(network: PerceptionNetwork) -> None:
    inputs, backend = noise_inputs(1), TorchBackend(network)
    padded = backend.fuse(padded_inputs(inputs, 2, 8, 2))
    expected = backend.fuse(inputs)
    assert padded.heat_logits.shape[0] == 2
    for name in ("heat_logits", "waypoints_m", "mode_logits"):
        torch.testing.assert_close(getattr(padded, name)[:1], getattr(expected, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(padded.boxes[:, :1], expected.boxes, rtol=1e-4, atol=1e-4)


def test_sizes_round_up() -> None:
    assert [round_up(n, (1, 2, 4)) for n in (0, 1, 2, 3, 4, 5, 9)] == [1, 1, 2, 4, 4, 8, 12]
    assert pad_rows(torch.ones(3, 2)).tolist() == [[1, 1]] * 3 + [[0, 0]]


def test_recordings_are_replayed_and_hand_out_memory_of_its_own(network: PerceptionNetwork) -> None:
    made: list[EagerRecording] = []

    def record(function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> EagerRecording:
        made.append(EagerRecording(function, inputs))
        return made[-1]

    plain = TorchBackend(network)
    graphed = TorchBackend(network, mode="graph", record=record)
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (1, 3, 128, 352), dtype=torch.uint8, generator=random) for _ in range(3)]
    kept: list[Tensor] = []
    for lane in ("front", "back", "front"):
        with graphed.lane(lane):
            kept.append(graphed.encode_cameras(images[len(kept)]))
    # Two lanes have a recording each, and what came first is not overwritten by what came later.
    assert [one.replays for one in made] == [2, 1]
    for image, features in zip(images, kept, strict=True):
        torch.testing.assert_close(features, plain.encode_cameras(image), rtol=1e-4, atol=1e-4)
    for seed in (3, 4):
        assert_same(graphed.fuse(noise_inputs(seed)), plain.fuse(noise_inputs(seed)), 1e-4)
    five = replace(surround_request(), cameras=surround_request().cameras[:5])
    assert_same(graphed.fuse(noise_inputs(5, request=five)), plain.fuse(noise_inputs(5, request=five)), 1e-4)
    assert len(made) == 3  # five cameras took the recording of six


def test_without_room_for_another_recording_it_still_runs() -> None:
    recorded = Recorded(lambda x: (x + 1,), lambda: "", EagerRecording)
    for size in range(MAX_RECORDINGS + 2):
        assert torch.equal(recorded(torch.zeros(size))[0], torch.ones(size))


def test_half_precision_stays_close(network: PerceptionNetwork) -> None:
    whole = InferenceModel(network, trained=True)
    half = InferenceModel(network, trained=True, backend=TorchBackend(network, precision="bfloat16"))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (3, 128, 352), dtype=np.uint8) for _ in range(6)]
    cloud, intensity = noise_cloud(rng, 20_000), rng.random(20_000, dtype=np.float32)
    request = replace(surround_request(), keep_dense=True, radar_age_ns=None)
    answers = []
    for model in (whole, half):
        features = [model.encode_image(image) for image in images]
        lidar = model.encode_lidar(cloud, intensity)
        assert lidar.dtype == features[0].dtype == torch.float32
        answers.append(model.run(model.inputs(request, features, [lidar], None)))
    one, other = answers
    # Stated in docs/gpu.md: what the dense head says, before queries are chosen by it.
    assert (one.heat_logits.sigmoid() - other.heat_logits.sigmoid()).abs().max() < 0.05
    assert (one.dense_boxes - other.dense_boxes).abs()[..., :2].max() < 0.25
    gap = (one.waypoints_m - other.waypoints_m).abs().amax(dim=-1)  # (1, modes, steps)
    assert (gap < 0.25 + 0.02 * one.waypoints_m.norm(dim=-1)).all()
    assert half.backend.precision == "bfloat16"
    assert half.info == whole.info


def test_coordinates_keep_their_weights_in_whole_precision(network: PerceptionNetwork) -> None:
    half = TorchBackend(network, precision="bfloat16").network
    kinds = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert kinds["camera_encoder.stem.conv.weight"] is torch.bfloat16
    for part in EXACT:
        of_part = [dtype for name, dtype in kinds.items() if name.startswith(f"{part}.")]
        assert of_part
        assert set(of_part) == {torch.float32}, part
    assert all(parameter.dtype is torch.float32 for parameter in network.parameters())


def test_choices_that_cannot_be_had_are_named(network: PerceptionNetwork) -> None:
    with pytest.raises(ConfigError, match="sees no GPU" if not torch.cuda.is_available() else "counted from 0"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError, match="use auto, cpu"):
        choose_device("gpu")
    with pytest.raises(ModelError, match="needs a GPU"):
        open_backend(network, BackendChoice(backend="graph", device="cpu"), "0" * 16)
    with pytest.raises(ModelError, match="float32"):
        open_backend(network, BackendChoice(backend="onnxruntime", device="cpu", precision="bfloat16"), "0" * 16)
    with pytest.raises(ModelError, match="precision 'double' is none"):
        choose_precision("double", CPU)
    assert choose_backend(BackendChoice(), CPU, "0" * 16) == "torch"
    assert choose_precision("auto", CPU) == "float32"


def test_a_lane_is_one_threads_at_a_time() -> None:
    lanes, seen, inside = Lanes(CPU), [], threading.Event()

    def enter() -> None:
        with lanes.on("front"):
            seen.append(lanes.current)

    with lanes.on("front"):
        with lanes.on("other"):
            assert lanes.current == "front"
        thread = threading.Thread(target=enter)
        thread.start()
        inside.wait(0.05)
        assert seen == []
    thread.join(timeout=60)
    assert seen == ["front"]
    assert lanes.current == ""


def test_features_cross_processes_on_the_host() -> None:
    encoded = Encoded(
        stage="camera", sensors=("front",), features=torch.ones(2, 3), error=None, started_ns=1, finished_ns=2
    )
    sent: Encoded = pickle.loads(pickle.dumps(encoded))
    assert (sent.stage, sent.sensors, sent.error, sent.started_ns, sent.finished_ns) == (
        "camera",
        ("front",),
        None,
        1,
        2,
    )
    assert sent.features is not None
    assert torch.equal(sent.features, torch.ones(2, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch sees none here")
@pytest.mark.parametrize("mode", ["torch", "graph"])
def test_a_gpu_agrees_with_the_cpu(network: PerceptionNetwork, mode: str) -> None:
    there = TorchBackend(network, device=torch.device("cuda", 0), precision="float32", mode=mode)  # type: ignore[arg-type]
    here = TorchBackend(network)
    images = torch.randint(0, 256, (1, 3, 128, 352), dtype=torch.uint8)
    torch.testing.assert_close(there.encode_cameras(images).cpu(), here.encode_cameras(images), rtol=1e-3, atol=1e-3)
    found, expected = there.fuse(noise_inputs(0)), here.fuse(noise_inputs(0))
    torch.testing.assert_close(found.heat_logits, expected.heat_logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.waypoints_m, expected.waypoints_m, rtol=1e-3, atol=1e-3)
