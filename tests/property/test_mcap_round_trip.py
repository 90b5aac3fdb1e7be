"""Whatever a message holds comes back from an MCAP file bit by bit."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception.core.cameras import CameraModel, Projection
from perception.core.geometry import se3, se3_from_yaw
from perception.core.labels import Labels
from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    Command,
    EgoState,
    LidarSweep,
    RadarScan,
    RouteCommand,
    Signal,
    SweepMotion,
    Unreadable,
)
from perception.core.rig import Modality, Sensor, SensorRig
from perception.recorders.mcap import McapRecorder
from perception.sources.mcap import McapSource
from tests.unit.small_mcap import assert_same

MAX_NS = 2**63 - 1
CAMERA = CameraModel(width_px=640, height_px=480, intrinsic=np.array([[500.0, 0.1, 320.0], [0, 501, 240], [0, 0, 1]]))
FISHEYE = CameraModel(
    width_px=64,
    height_px=48,
    intrinsic=np.array([[50.1, 0.0, 32.0], [0, 50, 24], [0, 0, 1]]),
    projection=Projection.KANNALA_BRANDT,
    distortion=np.array([0.1, -1 / 3, 1e-17, 5e300]),
)
RIG = SensorRig(
    sensors=(
        Sensor(name="cam", modality=Modality.CAMERA, ego_SE3_sensor=se3(), frequency_hz=10.0, camera=CAMERA),
        Sensor(
            name="lidar", modality=Modality.LIDAR, ego_SE3_sensor=se3_from_yaw(0.3), frequency_hz=1 / 3, offset_ns=-7
        ),
        Sensor(name="radar", modality=Modality.RADAR, ego_SE3_sensor=se3(translation=(0.1, 2, 3)), frequency_hz=13.0),
    )
)
Draw = Callable[[st.SearchStrategy[Any]], Any]
finite = st.floats(allow_nan=False, allow_infinity=False)
maybe_finite = st.none() | finite
known_or_nan = st.floats(allow_infinity=False)


def _column(draw: Draw, kind: type, n: int) -> Any:
    return draw(arrays(kind, n))


def _points(draw: Draw, n: int) -> Any:
    return draw(arrays(np.float32, (n, 3)))


@st.composite
def messages(draw: Draw) -> AnyMessage:
    arrival_ns = draw(st.integers(0, MAX_NS))
    times: dict[str, Any] = {"arrival_ns": arrival_ns, "capture_ns": arrival_ns - draw(st.integers(0, 10**9))}
    n = draw(st.integers(0, 40))
    kind = draw(st.sampled_from([CameraFrame, LidarSweep, RadarScan, EgoState, RouteCommand, Unreadable]))
    if kind is CameraFrame:
        return CameraFrame(
            sensor="cam",
            data=draw(st.binary(max_size=200)),
            calibration=draw(st.sampled_from([None, FISHEYE])),
            ego_SE3_sensor=draw(st.sampled_from([None, se3_from_yaw(0.123456789, (1 / 3, 0, -0.0))])),
            **times,
        )
    if kind is LidarSweep:
        return LidarSweep(
            sensor="lidar",
            points_m=_points(draw, n),
            intensity=_column(draw, np.float32, n),
            motion=draw(st.sampled_from(SweepMotion)),
            point_offset_ns=_column(draw, np.int32, n) if draw(st.booleans()) else None,
            ring=_column(draw, np.uint8, n) if draw(st.booleans()) else None,
            **times,
        )
    if kind is RadarScan:
        return RadarScan(
            sensor="radar",
            points_m=_points(draw, n),
            rcs_dbsm=_column(draw, np.float32, n),
            radial_mps=_column(draw, np.float32, n),
            compensated_mps=_column(draw, np.float32, n) if draw(st.booleans()) else None,
            is_valid=_column(draw, np.bool_, n),
            **times,
        )
    if kind is EgoState:
        pose = se3_from_yaw(draw(st.floats(-3, 3)), (draw(finite), 1e-300, -0.0))
        return EgoState(
            world_SE3_ego=pose if draw(st.booleans()) else None,
            velocity_mps=draw(st.none() | arrays(np.float64, 2, elements=known_or_nan)),
            yaw_rate_radps=draw(maybe_finite),
            **times,
        )
    if kind is RouteCommand:
        return RouteCommand(
            command=draw(st.sampled_from(Command)),
            speed_limit_mps=draw(maybe_finite),
            signal=draw(st.sampled_from(Signal)),
            distance_m=draw(maybe_finite),
            target_m=draw(st.none() | arrays(np.float64, 2, elements=known_or_nan)),
            **times,
        )
    return Unreadable(sensor=draw(st.sampled_from(["cam", "lidar", "ego"])), error=draw(st.text(max_size=30)), **times)


@st.composite
def labels(draw: Draw) -> Labels:
    k = draw(st.integers(0, 5))
    text = st.lists(st.text(max_size=8), min_size=k, max_size=k).map(tuple)

    def rows(columns: int) -> Any:
        return draw(arrays(np.float64, (k, columns), elements=known_or_nan))

    def whole() -> Any:
        return draw(arrays(np.int64, k))

    return Labels(
        reference_ns=draw(st.integers(0, MAX_NS)),
        category=draw(text),
        class_index=whole(),
        center_m=rows(3),
        size_m=rows(3),
        quaternion_wxyz=np.tile([1.0, 0.0, 0.0, 0.0], (k, 1)),
        velocity_mps=rows(2),
        attribute_index=whole(),
        track_id=draw(text),
        num_lidar_points=whole(),
        num_radar_points=whole(),
        visible_share=draw(st.none() | arrays(np.float64, k, elements=known_or_nan)),
    )


@settings(max_examples=60, deadline=None)
@given(given_messages=st.lists(messages(), min_size=1, max_size=6), truth=st.lists(labels(), max_size=2))
def test_every_kind_of_message_comes_back(given_messages: list[AnyMessage], truth: list[Labels]) -> None:
    ordered = sorted(given_messages, key=lambda message: message.arrival_ns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drive.mcap"
        with contextlib.closing(McapRecorder(path, RIG, "made/up")) as recorder:
            for message in ordered:
                recorder.write(message)
            for found in truth:
                recorder.write(found)
        source = McapSource(path)
        assert_same(source.rig, RIG)
        for one, other in zip(ordered, source.messages(), strict=True):
            assert_same(one, other, one.sensor)
        kept = {found.reference_ns: found for found in truth}
        assert source.label_times_ns == tuple(sorted(kept))
        for time_ns, found in kept.items():
            assert_same(found, source.labels(time_ns))
