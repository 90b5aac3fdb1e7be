"""Makes the golden files of detection and tracking with the official nuscenes-devkit, in an environment of its own:

    python3.11 -m venv /tmp/devkit
    /tmp/devkit/bin/pip install nuscenes-devkit==1.2.0 "numpy<2" "pandas<2.2" motmetrics==1.4.0
    /tmp/devkit/bin/python -m tests.golden.detection.make_golden     # from the root of the project

Each set is a pair of short synthetic drives, written as a nuScenes root with a result file beside it and handed to
`DetectionEval` or `TrackingEval` as they are. The file of a set holds the frames (labels and detections in the ego
frame) and the devkit's figures. Labels are as the devkit's database gives them, velocity by its `box_velocity`.
Made again, the last digits of tracking figures may differ: the devkit goes through scenes in the order of a set.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.golden.detection.devkit_root import official_detection, official_tracking, stored_frames, write_root
from tests.golden.detection.hand_made import adversarial_drives
from tests.golden.detection.synthetic_drives import (
    CATEGORIES,
    Detected,
    Drive,
    Sample,
    blurred,
    imagined,
    random_drive,
    seen,
)

HERE = Path(__file__).resolve().parent
COUNTS = dict.fromkeys(CATEGORIES, 3) | {"car": 8, "pedestrian": 7, "barrier": 5, "traffic_cone": 4}


def perfect(rng: np.random.Generator) -> list[Drive]:
    """Every annotation is found as it is, and nothing else."""

    def exact(sample: Sample) -> Sample:
        annotations = tuple(replace(a, num_lidar_points=5) for a in sample.annotations)
        scores = rng.permutation(len(annotations)) / 100 + 0.1
        found = [seen(sample, a, round(float(s), 2)) for a, s in zip(annotations, scores, strict=True)]
        return replace(sample, annotations=annotations, detections=tuple(found))

    return [[exact(sample) for sample in random_drive(rng, 6, COUNTS)] for _ in range(2)]


def noisy(rng: np.random.Generator, tilt_rad: float = 0.0, num_samples: int = 9) -> list[Drive]:
    """Boxes off by realistic amounts, a fifth missed, one in ten of another class, one in four imagined."""

    def rough(sample: Sample) -> Sample:
        found: list[Detected] = []
        for annotation in sample.annotations:
            if rng.random() < 0.2:
                continue
            detected = blurred(rng, seen(sample, annotation, round(float(rng.beta(4, 2)), 4)))
            if rng.random() < 0.1:
                detected = replace(detected, name=str(rng.choice(list(CATEGORIES))))
            found.append(detected)
        found += [imagined(rng, round(float(rng.beta(2, 4)), 4)) for _ in range(len(found) // 3)]
        return replace(sample, detections=tuple(found[i] for i in rng.permutation(len(found))))

    return [[rough(sample) for sample in random_drive(rng, num_samples, COUNTS, tilt_rad=tilt_rad)] for _ in range(2)]


def tracked(rng: np.random.Generator) -> list[Drive]:
    """Tracks with holes of one to three frames, changes of id, a late start, imagined tracks and scores that repeat."""
    counts = {"car": 7, "pedestrian": 6, "truck": 3, "bicycle": 3, "trailer": 2, "motorcycle": 1}
    return [_with_tracks(rng, random_drive(rng, 14, counts)) for _ in range(2)]


def crowded(rng: np.random.Generator) -> list[Drive]:
    """Cars and pedestrians so close together that tracks are near several objects, with rough positions, ids that are
    exchanged between neighbours, and tracks that change their class."""
    counts = {"car": 12, "pedestrian": 12, "bus": 3}
    drives = [_with_tracks(rng, random_drive(rng, 12, counts, reach_m=6.0), spread=0.9) for _ in range(2)]
    return [[_exchanged(rng, sample) for sample in drive] for drive in drives]


def _exchanged(rng: np.random.Generator, sample: Sample) -> Sample:
    found = list(sample.detections)
    for i in range(len(found) - 1):
        if rng.random() < 0.08:
            one, other = found[i], found[i + 1]
            found[i], found[i + 1] = replace(one, track_id=other.track_id), replace(other, track_id=one.track_id)
    return replace(sample, detections=tuple(found))


def _with_tracks(rng: np.random.Generator, drive: Drive, spread: float = 0.35) -> Drive:
    names = sorted({a.instance for sample in drive for a in sample.annotations if a.name != "motorcycle"})
    ids = {name: number for number, name in enumerate(names, start=1)}
    # Some objects are never found; some change their id in the middle; some take the id of a neighbour.
    lost = set(rng.choice(names, 3, replace=False))
    switched = {str(name): int(rng.integers(3, 10)) for name in rng.choice(names, 7, replace=False)}
    holes = {name: (int(rng.integers(2, 9)), int(rng.integers(1, 4))) for name in names}
    level = {name: round(float(rng.uniform(0.2, 0.9)), 1) for name in names}
    ghosts = [[imagined(rng, 0.4, 200 + n)] * 4 for n in range(4)]
    result = []
    for k, sample in enumerate(drive):
        found = []
        for a in sample.annotations:
            is_hole = a.instance in holes and holes[a.instance][0] <= k < sum(holes[a.instance])
            if a.instance not in ids or a.instance in lost or is_hole:
                continue
            track_id = ids[a.instance] + 100 * (k >= switched.get(a.instance, 99))
            score = level[a.instance] if rng.random() < 0.5 else round(float(rng.uniform(0.1, 1)), 4)
            found.append(blurred(rng, seen(sample, a, score, track_id), spread))
        found += [ghost[k - 3] for n, ghost in enumerate(ghosts) if 3 <= k < 6 + n % 2]
        result.append(replace(sample, detections=tuple(_without_repeats(found))))
    return result


def _without_repeats(found: list[Detected]) -> list[Detected]:
    return list({detected.track_id: detected for detected in found}.values())


def make(path: Path, about: str, drives: list[Drive], *, is_tracking: bool = False) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nusc = write_root(folder / "root", drives)
        if is_tracking:
            figures = official_tracking(folder / "root", drives, folder)
        else:
            figures = official_detection(nusc, drives, folder)
        content = {
            "about": " ".join(about.split()),
            "made_by": "tests/golden/detection/make_golden.py with nuscenes-devkit 1.2.0",
            "figures": figures,
            "frames": stored_frames(nusc, drives),
        }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def main() -> None:
    detection, tracking = HERE, HERE.parent / "tracking"
    make(detection / "perfect.json", str(perfect.__doc__), perfect(np.random.default_rng(1)))
    make(detection / "noisy.json", str(noisy.__doc__), noisy(np.random.default_rng(2)))
    make(detection / "adversarial.json", str(adversarial_drives.__doc__), adversarial_drives(np.random.default_rng(3)))
    tilted = noisy(np.random.default_rng(4), tilt_rad=0.03, num_samples=5)
    make(detection / "tilted.json", "As the noisy set, from an ego that pitches and rolls by 0.03 rad.", tilted)
    make(tracking / "tracks.json", str(tracked.__doc__), tracked(np.random.default_rng(5)), is_tracking=True)
    make(tracking / "crowd.json", str(crowded.__doc__), crowded(np.random.default_rng(6)), is_tracking=True)


if __name__ == "__main__":
    main()
