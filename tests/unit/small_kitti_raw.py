"""Writes a KITTI raw drive: 10 m/s to the east, turned by nothing, a lidar, two cameras and an inertial unit."""

from pathlib import Path

import cv2
import numpy as np

from perception.sources.kitti_raw_files import EARTH_RADIUS_M

DAY, DRIVE = "2011_09_26", "2011_09_26_drive_0001_sync"
FRAMES = 4
WIDTH_PX, HEIGHT_PX, FOCAL_PX = 64, 48, 40.0
BASELINE_M = 0.06
LATITUDE_DEG, LONGITUDE_DEG = 49.0, 8.4
SPEED_MPS = 10.0
IMU_IN_VELODYNE_M = (-0.81, 0.32, -0.8)
POINTS = np.array([[10.0, 1.0, -0.5, 0.3], [5.0, -1.0, 0.0, 1.0]], dtype="<f4")
FIRST_NS = 1_317_042_145_000_000_000
"""2011-09-26 13:02:25 as if it were UTC."""

CAR_AT_M = (20.0, 2.0, -1.7)


def stamp(frame: int, offset_ns: int = 0) -> str:
    nanoseconds = frame * 100_000_000 + offset_ns
    return f"2011-09-26 13:02:{25 + nanoseconds // 1_000_000_000:02d}.{nanoseconds % 1_000_000_000:09d}"


def write_drive(root: Path) -> Path:
    drive = root / DAY / DRIVE
    write_calibration(root / DAY)
    for part, suffix in (("velodyne_points", "bin"), ("image_02", "png"), ("image_03", "png"), ("oxts", "txt")):
        (drive / part / "data").mkdir(parents=True)
        offset_ns = {"velodyne_points": 0, "oxts": 5_000_000}.get(part, 10_000_000)
        times = [stamp(frame, offset_ns) for frame in range(FRAMES)]
        (drive / part / "timestamps.txt").write_text("\n".join(times) + "\n")
        for frame in range(FRAMES):
            path = drive / part / "data" / f"{frame:010d}.{suffix}"
            if suffix == "bin":
                path.write_bytes(POINTS.tobytes())
            elif suffix == "png":
                image = np.random.default_rng(frame).integers(0, 255, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
                path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
            else:
                path.write_text(oxts(frame))
    ends = [stamp(frame, 48_000_000) for frame in range(FRAMES)]
    (drive / "velodyne_points" / "timestamps_end.txt").write_text("\n".join(ends) + "\n")
    (drive / "tracklet_labels.xml").write_text(tracklets())
    return drive


def oxts(frame: int, *, yaw_rad: float = 0.0, turn_radps: float = 0.0) -> str:
    """East is yaw 0, so the unit goes ahead along its longitude."""
    metres = SPEED_MPS * 0.1 * frame
    longitude = LONGITUDE_DEG + np.degrees(metres / (EARTH_RADIUS_M * np.cos(np.radians(LATITUDE_DEG))))
    position = [LATITUDE_DEG, longitude, 110.0, 0.0, 0.0, yaw_rad]
    motion = [0.0, SPEED_MPS, SPEED_MPS, 0.0, 0.0, *[0.0] * 6, 0.0, 0.0, turn_radps, 0.0, 0.0, turn_radps]
    return " ".join(f"{value:.14g}" for value in [*position, *motion, 0.05, 0.01, 4, 9, 4, 4, 0])


def write_calibration(day: Path, *, leave_out: str = "") -> None:
    """Velodyne axes to camera axes by a plain swap, the first camera 0.3 m ahead of the lidar."""
    day.mkdir(parents=True, exist_ok=True)
    swap = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=np.float64)
    lines: dict[str, dict[str, object]] = {
        "calib_velo_to_cam.txt": {"R": swap, "T": swap @ [-0.3, 0, 0]},
        "calib_imu_to_velo.txt": {"R": np.eye(3), "T": IMU_IN_VELODYNE_M},
        "calib_cam_to_cam.txt": {"R_rect_00": np.eye(3)},
    }
    for number, shift in (("02", BASELINE_M), ("03", BASELINE_M - 0.54)):
        matrix = [FOCAL_PX, 0, 31.5, FOCAL_PX * shift, 0, FOCAL_PX, 23.5, 0, 0, 0, 1, 0]
        lines["calib_cam_to_cam.txt"] |= {f"S_rect_{number}": [WIDTH_PX, HEIGHT_PX], f"P_rect_{number}": matrix}
    for name, rows in lines.items():
        text = ["calib_time: 09-Jan-2012 13:57:47"]
        text += [
            f"{key}: {' '.join(f'{v:.12e}' for v in np.ravel(np.asarray(value, dtype=np.float64)))}"
            for key, value in rows.items()
        ]
        (day / name).write_text("\n".join(line for line in text if not line.startswith(f"{leave_out}:")) + "\n")


def tracklets(*, height: str = "1.5", tail: str = "</tracklets></boost_serialization>") -> str:
    """A car that keeps its place before the ego, so goes as fast, in frames 1 to 3; a van in frame 0 alone."""
    poses = {"Car": (1, 3, CAR_AT_M, 0.1), "Van": (0, 1, (8.0, -3.0, -1.7), np.pi / 2)}
    items = ""
    for category, (first, count, (x, y, z), turn) in poses.items():
        pose = f"<tx>{x}</tx><ty>{y}</ty><tz>{z}</tz><rx>0</rx><ry>0</ry><rz>{turn}</rz><state>2</state>"
        items += (
            f"<item><objectType>{category}</objectType><h>{height}</h><w>1.8</w><l>4</l>"
            f"<first_frame>{first}</first_frame><poses><count>{count}</count>"
            f"{f'<item>{pose}</item>' * count}</poses><finished>1</finished></item>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>\n<!DOCTYPE boost_serialization>\n'
        f'<boost_serialization signature="x" version="9"><tracklets><count>2</count>{items}{tail}'
    )
