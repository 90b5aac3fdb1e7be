"""Clouds of any layout, images of any encoding, cameras of any model, radar messages: read from ROS's own fields."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError, PayloadError
from perception.sources.rosbag_cameras import camera_from_info
from perception.sources.rosbag_images import compressed_image, raw_image
from perception.sources.rosbag_points import CloudLayout, Points, cloud_columns, learn_layout, read_points, read_returns
from perception.sources.rosbag_radar import scan_returns, track_returns
from perception.sources.rosbag_storage import Record, Topic
from perception.sources.rosbag_types import (
    COMPRESSED_IMAGE,
    IMAGE,
    RADAR_RETURN,
    RADAR_SCAN,
    RADAR_TRACK,
    RADAR_TRACKS,
    decode,
)
from tests.unit.small_bag import Ros

STAMP_NS = 1_700_000_000_123_456_789
ROS = Ros("mcap")
XYZ = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]


def _rows(dtype: Any, count: int = 6) -> NDArray[Any]:
    rows = np.zeros(count, dtype=np.dtype(dtype))
    rows["x"], rows["y"], rows["z"] = np.arange(count) + 1.5, -np.arange(count), 0.25
    return rows


def _read(message: Any, *, intensity_max: float | None = None, unit: str | None = None) -> Points:
    columns = cloud_columns("/points", message)
    layout = learn_layout(columns, STAMP_NS, intensity_max=intensity_max, unit=unit)
    return read_points("/points", columns, layout, STAMP_NS)


@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from("<>"),
    kind=st.sampled_from(["f4", "f8", "i2", "i4"]),
    gaps=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    rows=st.sampled_from([1, 2, 3]),
    row_padding=st.integers(0, 7),
    shuffled=st.permutations([0, 1, 2, 3]),
)
def test_any_order_gap_and_width_of_fields(
    order: str, kind: str, gaps: list[int], rows: int, row_padding: int, shuffled: list[int]
) -> None:
    names = [["x", "y", "z", "intensity"][i] for i in shuffled]
    offsets, end = [], 0
    for gap in gaps:
        offsets.append(end + gap)
        end += gap + np.dtype(kind).itemsize
    dtype = np.dtype({"names": names, "formats": [order + kind] * 4, "offsets": offsets, "itemsize": end + gaps[0]})
    made = np.zeros(6, dtype=dtype)
    for number, name in enumerate("xyz"):
        made[name] = np.arange(1, 7) * (number + 1)
    made["intensity"] = [0, 51, 102, 153, 204, 255]
    points = _read(ROS.cloud(STAMP_NS, "lidar", made, rows=rows, row_padding=row_padding), intensity_max=255.0)
    assert np.array_equal(points.points_m, np.outer(np.arange(1, 7), [1, 2, 3]).astype(np.float32))
    assert np.allclose(points.intensity, np.arange(6) / 5)


@pytest.mark.parametrize(
    ("name", "kind", "values", "unit"),
    [
        ("t", "<u4", np.arange(6) * 20_000_000, "ns"),  # Ouster: from the stamp
        ("time", "<f4", np.arange(6) * 0.02, "s"),  # Velodyne
        ("timestamp", "<f8", STAMP_NS / 1e9 + np.arange(6) * 0.02, "s"),  # Hesai, Robosense: seconds of a clock
        ("offset_time", "<u4", np.arange(6) * 20_000, "us"),
        ("timestamp", "<f8", float(STAMP_NS) + np.arange(6) * 20_000_000.0, "ns"),  # Livox
        ("time", "<f4", np.arange(6) * 20.0, "ms"),
    ],
)
@pytest.mark.parametrize("is_given", [True, False])
def test_point_times_of_each_driver(name: str, kind: str, values: NDArray[Any], unit: str, is_given: bool) -> None:
    rows = _rows([*XYZ, (name, kind)])
    rows[name] = values
    points = _read(ROS.cloud(STAMP_NS, "lidar", rows), unit=unit if is_given else None)
    assert points.offset_ns is not None
    # Seconds since 1970 in 64 bits are good for a fraction of a microsecond.
    assert np.allclose(points.offset_ns, np.arange(6) * 20_000_000, atol=1000)


def test_points_of_another_clock_begin_at_the_stamp() -> None:
    rows = _rows([*XYZ, ("timestamp", "<f8")])
    rows["timestamp"] = 5_000.0 + np.arange(6) * 0.02  # since the lidar was switched on
    points = _read(ROS.cloud(STAMP_NS, "lidar", rows))
    assert points.offset_ns is not None
    assert np.allclose(points.offset_ns, np.arange(6) * 20_000_000, atol=10)


def test_a_sweep_without_a_stamp_ends_at_the_time_of_the_log() -> None:
    rows = _rows([*XYZ, ("time", "<f4")])
    rows["time"] = np.arange(6) * 0.02
    columns = cloud_columns("/points", ROS.cloud(0, "lidar", rows))
    points = read_points("/points", columns, learn_layout(columns, 0, intensity_max=None, unit=None), 0)
    assert points.offset_ns is not None
    assert points.offset_ns.tolist() == pytest.approx((np.arange(6) * 2e7 - 1e8).tolist(), abs=10)


def test_points_that_saw_nothing_are_left_out_with_all_that_belongs_to_them() -> None:
    rows = _rows([*XYZ, ("intensity", "u1"), ("ring", "<u2"), ("t", "<u4")])
    rows["intensity"], rows["ring"], rows["t"] = np.arange(6) * 51, np.arange(6), np.arange(6) * 1_000_000
    rows["x"][1] = np.nan
    rows["y"][2] = np.inf
    rows["x"][4] = rows["y"][4] = rows["z"][4] = 0.0
    points = _read(ROS.cloud(STAMP_NS, "lidar", rows))
    assert points.ring is not None
    assert points.ring.tolist() == [0, 3, 5]
    assert points.intensity.tolist() == pytest.approx([0, 0.6, 1.0])
    assert points.offset_ns is not None
    assert points.offset_ns.tolist() == [0, 3_000_000, 5_000_000]
    rows["x"] = np.nan
    with pytest.raises(PayloadError, match="none of its 6 points"):
        _read(ROS.cloud(STAMP_NS, "lidar", rows))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 2**31, "height": 2**31}, "declares"),
        ({"row_step": 2**32 - 1, "height": 2}, "declares"),
        ({"point_step": 0}, "no points"),
        ({"width": 0}, "no points"),
        ({"point_step": 8, "row_step": 48}, "outside of its point"),
        ({"fields": []}, "no field 'x'"),
    ],
)
def test_a_cloud_that_declares_what_it_has_not_is_refused(changes: dict[str, Any], reason: str) -> None:
    message = ROS.cloud(STAMP_NS, "lidar", _rows(XYZ))
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(PayloadError, match=reason):
        cloud_columns("/points", message)


def test_a_field_of_huge_count_is_refused() -> None:
    message = ROS.cloud(STAMP_NS, "lidar", _rows(XYZ))
    message.fields[0].count = 2**32 - 1
    with pytest.raises(PayloadError, match="outside of its point"):
        cloud_columns("/points", message)


def test_a_cloud_without_padding_is_not_copied() -> None:
    message = ROS.cloud(STAMP_NS, "lidar", _rows(XYZ))
    assert np.shares_memory(cloud_columns("/points", message), message.data)


def test_a_radar_cloud_has_range_rates() -> None:
    rows = _rows([*XYZ, ("doppler", "<f4"), ("rcs", "<f4")])
    rows["doppler"], rows["rcs"] = -np.arange(6), 10.0
    returns = read_returns("/radar", cloud_columns("/radar", ROS.cloud(STAMP_NS, "radar", rows)))
    assert returns.radial_mps.tolist() == [0, -1, -2, -3, -4, -5]
    assert returns.rcs_dbsm.tolist() == [10.0] * 6
    assert returns.compensated_mps is None
    with pytest.raises(PayloadError, match="no field of range rates"):
        read_returns("/radar", cloud_columns("/radar", ROS.cloud(STAMP_NS, "radar", _rows(XYZ))))


def _serialized(kind: str, **fields: Any) -> Any:
    """A message as it comes out of its bytes."""
    message = ROS.make(kind, header=ROS.header(STAMP_NS, "radar"), **fields)
    data = bytes(ROS.store.serialize_cdr(message, kind))
    return decode(Topic(name="/radar", type_name=kind), Record(topic="/radar", log_ns=STAMP_NS, data=data))


def test_radar_returns_are_polar_with_azimuth_to_the_left_and_elevation_up() -> None:
    values = {"range": 10.0, "azimuth": np.pi / 2, "elevation": np.pi / 6, "doppler_velocity": -3.0, "amplitude": 7.0}
    nothing = {**values, "range": float("nan")}
    returns = [ROS.make(RADAR_RETURN, **values), ROS.make(RADAR_RETURN, **nothing)]
    found = scan_returns("/scan", _serialized(RADAR_SCAN, returns=returns))
    assert np.allclose(found.points_m, [[0, 10 * np.cos(np.pi / 6), 5.0]], atol=1e-6)
    assert (found.radial_mps.tolist(), found.rcs_dbsm.tolist()) == ([-3.0], [7.0])


def test_tracks_have_the_velocity_along_their_ray() -> None:
    track = ROS.make(
        RADAR_TRACK,
        uuid=ROS.make("unique_identifier_msgs/msg/UUID", uuid=np.zeros(16, dtype=np.uint8)),
        position=ROS.vector((30.0, 40.0, 0.0), "Point"),
        velocity=ROS.vector((-5.0, 5.0, 0.0)),
        acceleration=ROS.vector((0, 0, 0)),
        size=ROS.vector((4, 2, 1)),
        classification=0,
        **{f"{name}_covariance": np.zeros(6, np.float32) for name in ("position", "velocity", "acceleration", "size")},
    )
    found = track_returns("/tracks", _serialized(RADAR_TRACKS, tracks=[track]))
    assert found.points_m.tolist() == [[30.0, 40.0, 0.0]]
    assert found.radial_mps.tolist() == pytest.approx([1.0])


def _image(encoding: str, data: NDArray[np.uint8], width: int, height: int, step: int, big: int = 0) -> Any:
    header = ROS.header(STAMP_NS, "camera")
    return ROS.make(
        IMAGE, header=header, height=height, width=width, encoding=encoding, is_bigendian=big, step=step, data=data
    )


def _decoded(message: Any) -> NDArray[Any]:
    data = np.frombuffer(raw_image("/image", message), dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def test_raw_images_lose_nothing_and_rows_may_be_padded() -> None:
    bgr = np.random.default_rng(1).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    padded = np.zeros((6, 32), dtype=np.uint8)
    padded[:, :24] = bgr.reshape(6, 24)
    assert np.array_equal(_decoded(_image("bgr8", padded.ravel(), 8, 6, 32)), bgr)
    assert np.array_equal(_decoded(_image("rgb8", bgr[..., ::-1].copy().ravel(), 8, 6, 24)), bgr)
    assert np.array_equal(_decoded(_image("mono8", bgr[..., 0].copy().ravel(), 8, 6, 8)), bgr[..., 0])
    wide = np.frombuffer((bgr[..., 0].astype(np.uint16) << 8).astype(">u2").tobytes(), dtype=np.uint8)
    assert np.array_equal(_decoded(_image("mono16", wide, 8, 6, 16, big=1)), bgr[..., 0])


@pytest.mark.parametrize(
    ("encoding", "red", "blue"),
    [
        ("bayer_rggb8", (0, 0), (1, 1)),
        ("bayer_bggr8", (1, 1), (0, 0)),
        ("bayer_gbrg8", (1, 0), (0, 1)),
        ("bayer_grbg8", (0, 1), (1, 0)),
    ],
)
def test_bayer_patterns_give_their_colours(encoding: str, red: tuple[int, int], blue: tuple[int, int]) -> None:
    """A plain orange: 200 red, 100 green, 20 blue, at the places that the name of the pattern says."""
    mosaic = np.full((16, 16), 100, dtype=np.uint8)
    mosaic[red[0] :: 2, red[1] :: 2] = 200
    mosaic[blue[0] :: 2, blue[1] :: 2] = 20
    image = _decoded(_image(encoding, mosaic.ravel(), 16, 16, 16))
    assert image[8, 8].tolist() == [20, 100, 200]


def test_yuv_images_become_colours() -> None:
    uyvy = np.tile(np.array([128, 90, 128, 90], dtype=np.uint8), 4 * 8)  # grey
    image = _decoded(_image("yuv422", uyvy, 8, 8, 16))
    assert image.shape == (8, 8, 3)
    assert np.ptp(image) <= 1
    assert np.array_equal(_decoded(_image("yuv422_yuy2", np.roll(uyvy, 1), 8, 8, 16)), image)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (_image("32FC1", np.zeros(64, np.uint8), 4, 4, 16), "encoding '32FC1' is not one of"),
        (_image("mono8", np.zeros(15, np.uint8), 4, 4, 4), "4x4 pixels in rows of 4 bytes, but has 15"),
        (_image("mono8", np.zeros(15, np.uint8), 2**31, 2**31, 4), "declares"),
        (_image("rgb8", np.zeros(48, np.uint8), 4, 4, 4), "declares"),
        (_image("mono8", np.zeros(0, np.uint8), 0, 0, 0), "declares"),
    ],
)
def test_images_that_are_not_all_there_are_refused(message: Any, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        raw_image("/image", message)


def test_compressed_images_must_be_whole() -> None:
    data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1]
    header = ROS.header(STAMP_NS, "camera")
    assert compressed_image("/c", ROS.make(COMPRESSED_IMAGE, header=header, format="jpeg", data=data)) == data.tobytes()
    with pytest.raises(PayloadError, match="/c: the image is cut short"):
        compressed_image("/c", ROS.make(COMPRESSED_IMAGE, header=header, format="jpeg", data=data[:-20]))
    with pytest.raises(PayloadError, match="depth"):
        compressed_image("/c", ROS.make(COMPRESSED_IMAGE, header=header, format="16UC1; compressedDepth", data=data))


BROWN = np.array([-0.3, 0.1, 0.001, -0.002, 0.05])
MATRIX = np.array([[300.0, 0, 200], [0, 310, 120], [0, 0, 1]])


def _camera(distortion: NDArray[np.float64]) -> CameraModel:
    sizes = {0: Projection.PINHOLE, 4: Projection.KANNALA_BRANDT, 5: Projection.BROWN, 8: Projection.BROWN}
    return CameraModel(
        width_px=400, height_px=240, intrinsic=MATRIX, projection=sizes[len(distortion)], distortion=distortion
    )


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", BROWN),
        ("rational_polynomial", np.arange(1, 9) / 100),
        ("equidistant", np.array([0.1, 0.01, 0.001, 0.0001])),
        ("plumb_bob", np.zeros(0)),
    ],
)
def test_each_camera_model(kind: str, model: str, distortion: NDArray[np.float64]) -> None:
    sent = _camera(distortion)
    read = camera_from_info("/info", Ros(kind).info(STAMP_NS, "camera", sent, model), is_rectified=False)
    assert read.projection is sent.projection
    assert np.array_equal(read.distortion, sent.distortion)
    points = np.array([[0.3, -0.2, 2.0], [-1.0, 0.4, 5.0]])
    assert np.allclose(read.project(points)[0], sent.project(points)[0])


def test_zeros_are_no_distortion_and_rectified_images_have_none() -> None:
    message = ROS.info(STAMP_NS, "camera", _camera(BROWN))
    message.p[0] = 250.0
    read = camera_from_info("/info", message, is_rectified=True)
    assert (read.projection, read.intrinsic[0, 0]) == (Projection.PINHOLE, 250.0)
    message.d = np.zeros(5)
    assert camera_from_info("/info", message, is_rectified=False).projection is Projection.PINHOLE


def test_a_window_and_binning_move_the_intrinsics() -> None:
    message = ROS.info(STAMP_NS, "camera", _camera(np.zeros(0)))
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 20, 200, 200
    message.binning_x = message.binning_y = 2
    read = camera_from_info("/info", message, is_rectified=False)
    assert (read.width_px, read.height_px) == (100, 100)
    # A ray through the outer edge of the window goes through the outer edge of the small image.
    edge = np.array([[(99.5 - 200) / 300, (19.5 - 120) / 310, 1.0]])
    assert np.allclose(read.project(edge)[0], [[-0.5, -0.5]])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": np.zeros(9), "p": np.zeros(12)}, "/info: its CameraInfo is all zeros"),
        ({"distortion_model": "omni"}, "distortion model 'omni' is not known"),
        ({"d": np.arange(1.0, 7.0)}, "takes 4, 5 or 8 coefficients, got 6"),
        ({"distortion_model": "rational_polynomial", "d": np.full(12, 0.1)}, "thin prism"),
        ({"width": 0}, "image size 0x240"),
    ],
)
def test_a_calibration_that_is_none_is_refused(changes: dict[str, Any], reason: str) -> None:
    message = ROS.info(STAMP_NS, "camera", _camera(BROWN))
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(DriveError, match=reason):
        camera_from_info("/info", message, is_rectified=False)


def test_the_layout_of_a_sensor_is_learnt_once() -> None:
    rows = _rows([*XYZ, ("intensity", "<f4")])
    rows["intensity"] = 120.0
    columns = cloud_columns("/points", ROS.cloud(STAMP_NS, "lidar", rows))
    assert learn_layout(columns, STAMP_NS, intensity_max=None, unit=None) == CloudLayout(intensity_max=255.0)
    rows["intensity"] = 0.5
    dark = cloud_columns("/points", ROS.cloud(STAMP_NS, "lidar", rows))
    points = read_points("/points", dark, CloudLayout(intensity_max=255.0), STAMP_NS)
    assert points.intensity.tolist() == pytest.approx([0.5 / 255] * 6)
