"""Drives made to find differences: ties, duplicates, boxes on the edge of a rule, racks, missing values."""

import math
from dataclasses import replace

import numpy as np

from tests.golden.detection.synthetic_drives import (
    ATTRIBUTES,
    CATEGORIES,
    RACK,
    SIZES_LWH,
    Annotation,
    Detected,
    Drive,
    Sample,
    blurred,
    imagined,
    pose,
    random_drive,
    seen,
)

_NO_TURN = pose(0.0, 0.0, np.eye(3))


def adversarial_drives(rng: np.random.Generator) -> list[Drive]:
    """Equal scores, empty frames, duplicates, boxes on and out of range, classes without labels or detections, nan
    velocities, missing attributes, far more detections than labels, bike racks, labels without points."""
    made = [
        _edges_of_rules(),
        _sample([], []),
        _sample([], [_detected("car", 0.5, 5.0, 5.0), _detected("bus", 0.5, 15.0, 5.0)]),
        _sample([_annotation("car", "alone", 20.0, 3.0), _annotation("trailer", "unfound", 9.0, 9.0)], []),
        _racks(),
        _crowd(rng),
        _ties(),
    ]
    return [made, [_quantised(rng, sample) for sample in random_drive(rng, 6, dict.fromkeys(CATEGORIES, 3))]]


def _edges_of_rules() -> Sample:
    """Distances of exactly a threshold or a range, seen from an ego at the origin, so that they are exact."""
    annotations = [
        _annotation("car", "at-2m", 10.0, 0.0),
        _annotation("car", "at-half-m", 20.0, 0.0),
        _annotation("car", "at-range", 50.0, 0.0),
        _annotation("car", "in-range", 0.0, 49.5),
        _annotation("pedestrian", "at-40m", 24.0, 32.0),
        _annotation("pedestrian", "far", 39.5, 0.0),
        _annotation("barrier", "flipped", 8.0, 8.0),
        _annotation("barrier", "across", 12.0, 8.0),
        _annotation("traffic_cone", "cone", -5.0, 5.0),
        _annotation("car", "no-points", -20.0, 0.0, num_lidar_points=0, num_radar_points=0),
        _annotation("car", "radar-only", -30.0, 0.0, num_lidar_points=0, num_radar_points=1),
        replace(_annotation("truck", "no-attribute", 0.0, -15.0), attribute=""),
    ]
    detections = [
        _detected("car", 0.75, 12.0, 0.0),
        _detected("car", 0.75, 20.5, 0.0),
        _detected("car", 1.0, 50.0, 0.0),
        _detected("car", 0.5, 49.75, 0.0),
        _detected("car", 0.5, 0.0, 50.25),
        _detected("pedestrian", 0.75, 24.0, 32.0),
        _detected("pedestrian", 0.75, 39.75, 0.0),
        replace(_detected("barrier", 0.75, 8.0, 8.25), yaw_rad=round(math.pi, 5)),
        replace(_detected("barrier", 0.75, 12.0, 8.25), yaw_rad=1.5),
        replace(_detected("traffic_cone", 0.25, -5.0, 5.25), yaw_rad=2.0),
        _detected("car", 0.875, -20.0, 0.0),
        _detected("car", 0.0, -30.0, 0.0),
        replace(_detected("truck", 0.5, 0.0, -15.0), velocity_mps=(math.nan, math.nan)),
        _detected("construction_vehicle", 0.9375, 5.0, -9.0),
    ]
    return _sample(annotations, detections)


def _racks() -> Sample:
    """Bikes in and beside two racks, one of them turned; a rack lower than a bike's centre holds nothing."""
    turned = replace(_annotation(RACK, "rack", 10.0, 10.0), size_m=(6.0, 2.0, 2.0), yaw_rad=0.75)
    low = replace(_annotation(RACK, "low", -10.0, 10.0), size_m=(6.0, 2.0, 0.5), center_m=(-10.0, 10.0, 0.25))
    places = {"in": (10.5, 10.5), "end": (12.0, 11.75), "beside": (9.0, 11.5), "over": (-10.0, 10.0)}
    annotations = [
        _annotation(name, f"{name}-{k}", x, y) for name in ("bicycle", "car") for k, (x, y) in places.items()
    ]
    annotations += [_annotation("motorcycle", "moto", 9.5, 9.5), _annotation("motorcycle", "free", -5.0, -5.0)]
    detections = [_detected("bicycle", 0.5, x + 0.25, y) for x, y in places.values()]
    detections += [_detected("motorcycle", 0.5, 9.5, 9.5), _detected("motorcycle", 0.25, -5.0, -5.5)]
    detections += [_detected("car", 0.75, 10.5, 10.75)]
    return _sample([turned, low, *annotations], detections)


def _crowd(rng: np.random.Generator) -> Sample:
    """Sixty detections of two scores around five cars."""
    annotations = [_annotation("car", f"crowd-{k}", 6.0 + 3 * k, -6.0) for k in range(5)]
    spots = np.round(rng.uniform((4, -9), (20, -3), (60, 2)), 1)
    return _sample(annotations, [_detected("car", 0.5 + 0.125 * (k % 2), *spot) for k, spot in enumerate(spots)])


def _ties() -> Sample:
    """Copies of one box, one box between two labels, two boxes for one label, all of the same score."""
    annotations = [_annotation("pedestrian", f"tie-{k}", float(x), 4.0) for k, x in enumerate((2, 3, 8, 12))]
    spots = [(2.5, 4.0), (2.5, 4.0), (2.5, 4.0), (8.25, 4.0), (7.75, 4.0), (12.0, 4.5), (12.0, 4.25)]
    made = [replace(_detected("pedestrian", 0.5, x, y), yaw_rad=0.25 * k) for k, (x, y) in enumerate(spots)]
    return _sample(annotations, made)


def _quantised(rng: np.random.Generator, sample: Sample) -> Sample:
    """Noisy detections with scores in tenths, some twice, some without velocity or attribute; one class never found."""
    found: list[Detected] = []
    for annotation in sample.annotations:
        if annotation.name == "trailer":
            continue
        detected = blurred(rng, seen(sample, annotation, round(float(rng.uniform(0, 1)), 1)))
        if rng.random() < 0.2:
            detected = replace(detected, velocity_mps=(math.nan, math.nan))
        if rng.random() < 0.2:
            detected = replace(detected, attribute="")
        found += [detected] * int(rng.integers(1, 3))
    found += [imagined(rng, round(float(rng.uniform(0, 1)), 1)) for _ in range(20)]
    # A class that has no label anywhere, only detections.
    kept = tuple(a for a in sample.annotations if a.name != "construction_vehicle")
    return replace(sample, annotations=kept, detections=tuple(d for d in found if d.name != "trailer"))


def _annotation(
    name: str, instance: str, x: float, y: float, num_lidar_points: int = 5, num_radar_points: int = 0
) -> Annotation:
    return Annotation(
        instance=instance,
        name=name,
        center_m=(x, y, 1.0),
        size_m=SIZES_LWH.get(name, (4.0, 2.0, 2.0)),
        yaw_rad=0.0,
        attribute=ATTRIBUTES.get(name, ("",))[0],
        num_lidar_points=num_lidar_points,
        num_radar_points=num_radar_points,
    )


def _detected(name: str, score: float, x: float, y: float) -> Detected:
    return Detected(
        name=name,
        score=score,
        center_m=(float(x), float(y), 1.0),
        size_m=SIZES_LWH[name],
        yaw_rad=0.125,
        velocity_mps=(0.5, 0.0),
        attribute=ATTRIBUTES[name][0],
    )


def _sample(annotations: list[Annotation], detections: list[Detected]) -> Sample:
    return Sample(world_SE3_ego=_NO_TURN, annotations=tuple(annotations), detections=tuple(detections))
