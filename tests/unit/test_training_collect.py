"""Collecting: frames are what the service would have encoded, with what was true; bad data is left out and counted."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
import torch

from perception.config.schema import ImageConfig, ModelConfig, ServiceConfig, SyncConfig
from perception.config.training import DataConfig
from perception.core.cameras import CameraModel, Projection
from perception.core.clock import ManualClock
from perception.core.geometry import integrate_twist, se3_from_yaw
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, Unreadable
from perception.core.ports import FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.models.blocks import cell_centers
from perception.models.inference import InferenceModel, ego_vector
from perception.models.preprocess import ImageTransform
from perception.pipeline.session import Session
from perception.pipeline.stages import Encoded, Stages
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from perception.training.cleaning import Findings, Rule
from perception.training.collect import collect_frames, network_camera
from perception.training.frames import TrainingFrame
from sim.scene import EgoPose
from sim.truth import drivable_raster
from tests.model_samples import TINY, tiny_network
from tests.unit.nuscenes_roots import small_rig


@pytest.fixture(scope="module")
def drive() -> MemorySource:
    """Six seconds of one camera, lidar and radar, labelled at 2 Hz."""
    source = SyntheticSource(seed=4, duration_s=6.0, rig=small_rig())
    labels = {time: labels for time in source.label_times_ns if (labels := source.labels(time)) is not None}
    return MemorySource(source.rig, source.messages(), labels, drive_id="memory/six")


def changed(
    drive: MemorySource, messages: Sequence[AnyMessage] | None = None, labels: dict[int, Labels] | None = None
) -> MemorySource:
    known = {time: found for time in drive.label_times_ns if (found := drive.labels(time)) is not None}
    chosen = list(drive.messages()) if messages is None else messages
    return MemorySource(drive.rig, chosen, known if labels is None else labels)


def collect(
    drive: MemorySource, *, every: int = 1, reference: str = "sweeps", model: ModelConfig = TINY
) -> tuple[list[TrainingFrame], Findings]:
    findings = Findings()
    data = DataConfig.model_validate({"drives": ("x",), "every": every, "reference": reference})
    return list(collect_frames(drive, model, data, SyncConfig(), findings)), findings


@pytest.mark.parametrize("size_px", [(400, 225), (704, 256), (1600, 900), (800, 200), (640, 640)])
@pytest.mark.parametrize(
    ("projection", "distortion", "xi"),
    [
        (Projection.PINHOLE, [], 0.0),
        (Projection.BROWN, [-0.2, 0.05, 0.001, -0.001, 0.0], 0.0),
        (Projection.MEI, [-0.1, 0.02, 0.0, 0.0], 0.9),
        (Projection.KANNALA_BRANDT, [0.02, -0.01, 0.001, 0.0], 0.0),
    ],
)
def test_the_network_camera_projects_where_the_network_image_shows_it(
    size_px: tuple[int, int], projection: Projection, distortion: list[float], xi: float
) -> None:
    width, height = size_px
    camera = CameraModel(
        width_px=width,
        height_px=height,
        intrinsic=np.array([[0.8 * width, 0.3, width / 2 - 7], [0, 0.79 * width, height / 2 + 5], [0, 0, 1.0]]),
        projection=projection,
        distortion=np.array(distortion),
        xi=xi,
    )
    image = ImageConfig()
    moved, top_px = network_camera(camera, image)
    points = np.random.default_rng(0).uniform([-3, -2, 2], [3, 2, 20], (200, 3))
    full, is_visible = camera.project(points)
    pixels, is_in_network = moved.project(points)
    np.testing.assert_allclose(
        pixels[is_visible], ImageTransform.of(image, width, height).to_network(full[is_visible]), atol=1e-6
    )
    # Seen by both models means the same, but for sky that was cut off or padding that was put on top.
    is_below = pixels[:, 1] >= max(0.0, top_px) - 0.5
    assert np.array_equal(is_visible & is_below, is_in_network & is_below)
    assert is_visible.sum() > 50
    assert (moved.width_px, moved.height_px) == (image.width_px, image.height_px)
    assert top_px == max(0, image.height_px - round(height * image.width_px / width))


@dataclass(frozen=True)
class StagesHandle:
    key: str
    encoded: Encoded


class ServiceEngine:
    """The service's own stages, with a look at what goes into fusion."""

    placement = "test"

    def __init__(self, model: InferenceModel) -> None:
        self._stages = Stages(model)
        self.model: ModelInfo = model.info
        self.fused: dict[int, tuple[FuseRequest, list[torch.Tensor]]] = {}

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return StagesHandle(request.key, self._stages.encode(request))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        encoded = [one.encoded.features for one in features if isinstance(one, StagesHandle)]
        self.fused[request.reference_ns] = request, [one for one in encoded if one is not None]
        return Future()

    def release(self, features: Sequence[FeatureHandle]) -> None: ...

    def close(self) -> None: ...


def padded(points: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.zeros((cap, points.shape[1]), dtype=np.float32)
    rows[: len(points)] = points
    return rows, np.array(len(points), dtype=np.int64)


def test_a_frame_holds_exactly_what_the_service_encodes(drive: MemorySource) -> None:
    model = InferenceModel(tiny_network(), trained=False)
    engine = ServiceEngine(model)
    session = Session(
        drive_id="d", run_id="r", rig=drive.rig, engine=engine, config=ServiceConfig(), clock=ManualClock(0)
    )
    for message in islice(drive.messages(), 200):
        session.push(message)
    frames, _ = collect(drive)
    common = [frame for frame in frames if frame.reference_ns in engine.fused]
    assert len(common) >= 2
    for frame in common:
        request, (camera, lidar, radar) = engine.fused[frame.reference_ns]
        assert torch.equal(model.encode_image(frame.images[0]), camera)
        assert torch.equal(model.encode_packed_lidar(*padded(frame.lidar_points, TINY.lidar.max_points)), lidar)
        assert torch.equal(model.encode_packed_radar(*padded(frame.radar_points, TINY.radar.max_points)), radar)
        assert np.array_equal(frame.ego, ego_vector(request))
        assert np.array_equal(frame.reference_SE3_camera[0], request.cameras[0].reference_SE3_camera.astype(np.float32))
        assert frame.camera_age_s[0] == pytest.approx(request.cameras[0].age_ns * 1e-9)
        assert frame.radar_age_s == pytest.approx((request.radar_age_ns or 0) * 1e-9)


def test_labels_and_the_path_to_come_are_those_of_the_drive(drive: MemorySource) -> None:
    frames, findings = collect(drive)
    assert [frame.reference_ns for frame in frames] == list(drive.label_times_ns)
    assert set(findings.counts) <= {Rule.OUT_OF_RANGE.value, Rule.NO_POINTS.value}
    times = np.arange(1, 7) * 0.5
    arc = integrate_twist([8.0, 0.0], 0.04, times)[:, :2, 3]
    for frame in frames[:6]:
        assert frame.path_known.all()
        np.testing.assert_allclose(frame.path_m, arc, atol=0.01)
        assert frame.target_speed_mps == pytest.approx(8.0, abs=0.01)
    left_s = (drive.label_times_ns[-1] - drive.label_times_ns[-3]) / 1e9
    assert frames[-3].path_known.tolist() == (times <= left_s + 1e-6).tolist()
    assert not frames[-1].path_known.any()
    assert np.isnan(frames[-1].target_speed_mps)
    assert np.isfinite(frames[-1].path_m).all()
    assert all(frame.drivable is None for frame in frames)


def test_frames_come_while_the_drive_goes_on(drive: MemorySource) -> None:
    """A long drive must not wait in memory for its end."""
    read = 0

    class Counting(MemorySource):
        def messages(self) -> Iterator[AnyMessage]:
            nonlocal read
            for message in drive.messages():
                read += 1
                yield message

    source = Counting(drive.rig, [], {time: found for time in drive.label_times_ns if (found := drive.labels(time))})
    frames = collect_frames(source, TINY, DataConfig(drives=("x",)), SyncConfig(), Findings())
    assert next(frames).reference_ns == drive.label_times_ns[0]
    assert read < len(list(drive.messages())) * 0.9


@pytest.mark.parametrize("reference", ["sweeps", "keyframes"])
def test_every_nth_labelled_time_is_taken(drive: MemorySource, reference: str) -> None:
    frames, _ = collect(drive, every=3, reference=reference)
    assert [frame.reference_ns for frame in frames] == list(drive.label_times_ns[::3])


def test_keyframes_survive_a_dead_lidar(drive: MemorySource) -> None:
    source = changed(drive, [message for message in drive.messages() if not isinstance(message, LidarSweep)])
    frames, _ = collect(source, reference="keyframes")
    assert len(frames) > 6
    assert all(len(frame.lidar_count) == 0 and len(frame.cameras) == 1 for frame in frames)
    swept, findings = collect(source, reference="sweeps")
    assert findings.counts[Rule.TIME_WITHOUT_FRAME.value] == len(drive.label_times_ns) - len(swept)


def broken_image(message: CameraFrame) -> CameraFrame:
    return replace(message, data=message.data[: len(message.data) // 2])


def test_a_corrupt_image_is_left_out_named_and_counted(drive: MemorySource) -> None:
    images = [message for message in drive.messages() if isinstance(message, CameraFrame)]
    first_ns = drive.label_times_ns[0]
    victim = min(images, key=lambda message: abs(message.capture_ns - first_ns))
    source = changed(drive, [broken_image(victim) if one is victim else one for one in drive.messages()])
    frames, findings = collect(source)
    assert [len(frame.cameras) for frame in frames[:3]] == [0, 1, 1]
    assert frames[0].images.shape == (0, 3, 128, 352)
    assert findings.counts[Rule.UNREADABLE_IMAGE.value] == 1
    assert f"CAM_FRONT at {victim.capture_ns}: JPEG is cut off" in findings.examples[Rule.UNREADABLE_IMAGE.value][0]


def test_points_that_are_not_finite_and_messages_that_cannot_be_read_are_counted(drive: MemorySource) -> None:
    first_ns = drive.label_times_ns[0]

    def spoil(message: AnyMessage) -> AnyMessage:
        if isinstance(message, LidarSweep) and message.capture_ns == first_ns:
            points = message.points_m.copy()
            points[:7] = np.nan
            return replace(message, points_m=points)
        if isinstance(message, RadarScan) and message.capture_ns == first_ns:
            times = {"capture_ns": message.capture_ns, "arrival_ns": message.arrival_ns}
            return Unreadable(sensor=message.sensor, error="scan.pcd is empty", **times)
        return message

    frames, findings = collect(changed(drive, [spoil(message) for message in drive.messages()]))
    assert findings.counts[Rule.POINT_NOT_FINITE.value] == 7
    assert findings.counts[Rule.UNREADABLE.value] == 1
    assert findings.examples[Rule.UNREADABLE.value] == [f"RADAR_FRONT at {first_ns}: scan.pcd is empty"]
    assert all(np.isfinite(frame.lidar_points).all() for frame in frames)


def test_a_frame_of_which_nothing_can_be_read_is_dropped(drive: MemorySource) -> None:
    messages = [
        broken_image(one) if isinstance(one, CameraFrame) else one
        for one in drive.messages()
        if not isinstance(one, LidarSweep | RadarScan)
    ]
    frames, findings = collect(changed(drive, messages), reference="keyframes")
    assert not frames
    assert findings.counts[Rule.FRAME_WITHOUT_SENSORS.value] > 6


def test_a_label_outside_the_world_is_counted(drive: MemorySource) -> None:
    time = drive.label_times_ns[0]
    before = drive.labels(time)
    assert before is not None
    far = before.center_m.copy()
    far[0] = [1e7, 0.0, 0.0]
    labels = {time: replace(before, center_m=far)}
    frames, findings = collect(changed(drive, labels=labels))
    known, _ = collect(changed(drive, labels={time: before}))
    assert len(frames[0].class_index) == len(known[0].class_index) - 1
    assert findings.counts[Rule.OUT_OF_RANGE.value] >= 1


def test_a_drive_without_labels_is_named_and_not_read(drive: MemorySource) -> None:
    class Unlabelled(MemorySource):
        def messages(self) -> Iterator[AnyMessage]:
            raise AssertionError("there is nothing to read it for")

    frames, findings = collect(Unlabelled(drive.rig, [], drive_id="memory/bare"))
    assert not frames
    assert findings.examples == {Rule.DRIVE_WITHOUT_LABELS.value: ["memory/bare"]}


def test_a_frame_that_comes_again_is_counted_once(drive: MemorySource) -> None:
    """The drive's clock jumps back: the same captures arrive once more, half a minute later."""
    messages = list(drive.messages())
    again = [replace(message, arrival_ns=message.arrival_ns + 30_000_000_000) for message in messages]
    frames, findings = collect(changed(drive, [*messages, *again]))
    times = [frame.reference_ns for frame in frames]
    assert times == list(drive.label_times_ns)
    assert findings.counts[Rule.FRAME_AGAIN.value] >= 6


def test_a_drive_without_poses_has_frames_without_a_path(drive: MemorySource) -> None:
    frames, _ = collect(changed(drive, [one for one in drive.messages() if not isinstance(one, EgoState)]))
    assert len(frames) == len(drive.label_times_ns)
    assert not any(frame.path_known.any() for frame in frames)


def test_drivable_cells_lie_as_the_cells_of_the_network_do() -> None:
    def is_road(points_m: np.ndarray) -> np.ndarray:
        inside: np.ndarray = (points_m[:, 0] > 10.0) & (points_m[:, 1] > 3.0)
        return inside

    pose = EgoPose(time_ns=0, world_SE3_ego=se3_from_yaw(0.0), velocity_mps=np.zeros(2), yaw_rate_radps=0.0)
    cells = TINY.bev_cells
    raster = drivable_raster(is_road, pose, TINY.range_m, 2 * TINY.range_m / cells)
    centers_m = cell_centers(cells).numpy() * TINY.range_m
    assert np.array_equal(raster, is_road(centers_m).reshape(cells, cells))
    assert 0 < raster.sum() < raster.size / 2
