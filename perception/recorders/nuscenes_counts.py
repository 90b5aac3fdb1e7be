"""How many points of a keyframe's own files lie in each labelled box."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.core.rig import Modality
from perception.recorders.nuscenes_drive import Keyframes, RecordedDrive
from perception.recorders.nuscenes_files import read_lidar_points, read_radar_points


def count_points(root: Path, drive: RecordedDrive, keyframes: Keyframes, i: int, labels: Labels) -> Labels:
    """The labels of keyframe `i` with the counts that its files under `root` bear out.

    Lidar points are always counted anew where the keyframe has a sweep: recording deskews sweeps by the ego's measured
    motion, so that points near a box's side may change it, and the devkit counts what is in the files. Radar returns
    keep the counts that the labels bring, which allow for the radar's coarseness.
    """
    lidar, has_sweep = _count_inside(root, drive, keyframes, i, labels, Modality.LIDAR)
    radar = labels.num_radar_points
    if np.any(radar == UNKNOWN_COUNT):
        found, _ = _count_inside(root, drive, keyframes, i, labels, Modality.RADAR)
        radar = np.where(radar == UNKNOWN_COUNT, found, radar)
    known = np.maximum(labels.num_lidar_points, 0)
    return replace(labels, num_lidar_points=lidar if has_sweep else known, num_radar_points=radar)


def _count_inside(
    root: Path, drive: RecordedDrive, keyframes: Keyframes, i: int, labels: Labels, modality: Modality
) -> tuple[NDArray[np.int64], bool]:
    """Points (K,) of all sensors of a modality in each box, moved by the ego's motion; whether there was any file."""
    count, has_file = np.zeros(len(labels), dtype=np.int64), False
    ego_SE3_world = invert(drive.track.at(int(keyframes.times_us[i]) * 1000))
    for sensor in drive.rig.of(modality):
        capture_us = keyframes.members.get(sensor.name, {}).get(i)
        if capture_us is None:
            continue
        path = root / drive.files[sensor.name][capture_us].filename
        points = read_lidar_points(path) if modality is Modality.LIDAR else read_radar_points(path)
        moved = ego_SE3_world @ drive.track.at(capture_us * 1000) @ sensor.ego_SE3_sensor
        count += _inside(transform_points(moved, points), labels)
        has_file = True
    return count, has_file


def _inside(points_m: NDArray[np.float64], labels: Labels) -> NDArray[np.int64]:
    """How many of the points (N, 3) lie in each box: (K,). Only those within a box's reach along x are looked at."""
    points = points_m[np.argsort(points_m[:, 0], kind="stable")]
    reach = np.linalg.norm(labels.size_m, axis=1) / 2
    low = np.searchsorted(points[:, 0], labels.center_m[:, 0] - reach)
    high = np.searchsorted(points[:, 0], labels.center_m[:, 0] + reach, side="right")
    rotation = quaternion_to_rotation(labels.quaternion_wxyz.reshape(-1, 4))
    count = np.zeros(len(labels), dtype=np.int64)
    for k in range(len(labels)):
        local = (points[low[k] : high[k]] - labels.center_m[k]) @ rotation[k]
        count[k] = np.count_nonzero(np.all(np.abs(local) <= labels.size_m[k] / 2, axis=1))
    return count
