"""What validation and the gates count: labels as trained on, subsets, labels that a subset cannot see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception.core.rig import Modality
from perception.core.taxonomy import CLASSES
from perception.evaluation.subsets import SUBSETS
from perception.models.heads.dense import PRIOR_LOGIT
from perception.models.network import build_network
from perception.models.queries import select_peaks
from perception.models.tensors import FusionInputs, FusionTensors
from perception.training.collate import collate
from perception.training.forward import forward
from perception.training.frames import TrainingFrame
from perception.training.gates import GATES, can_see, judge_gradients, judge_overfit
from perception.training.validation import dense_answer, labels_of, path_errors, validate
from perception.training.view_geometry import view_geometry
from tests.training_runs import MINI, mini_config, mini_frames
from tests.training_scenes import make_frame

CPU = torch.device("cpu")


class Oracle(torch.nn.Module):
    """Answers with what is true of the frames it knows, found by the ego's speed; shown labels in every subset."""

    def __init__(self, frames: list[TrainingFrame], shift_m: float = 0.0) -> None:
        super().__init__()
        self.config = MINI
        self.network = build_network(MINI).eval()
        self.camera_encoder, self.lidar_encoder = self.network.camera_encoder, self.network.lidar_encoder
        self.radar_encoder, self.image_head = self.network.radar_encoder, self.network.image_head
        self.frames, self.shift_m = frames, shift_m

    def fuse(self, inputs: FusionInputs, denoising: object = None) -> FusionTensors:
        tensors = self.network.fuse(inputs)
        logits = torch.full_like(tensors.class_logits, PRIOR_LOGIT)
        heat = torch.full_like(tensors.heat_logits, PRIOR_LOGIT)
        boxes, dense = tensors.boxes.clone(), tensors.dense_boxes.clone()
        waypoints = tensors.waypoints_m.clone()
        cell_m = 2 * MINI.range_m / MINI.bev_cells
        for row, speed in enumerate(inputs.ego[:, 0]):
            frame = next(f for f in self.frames if f.ego[0] == speed)
            truth = torch.from_numpy(frame.boxes).clone()
            truth[:, 0] += self.shift_m
            for place, (box, label) in enumerate(zip(truth, frame.class_index, strict=True)):
                logits[:, row, place, label], boxes[:, row, place] = 5.0, box
                x, y = ((box[:2] + MINI.range_m) / cell_m).long()
                heat[row, label, x, y], dense[row, int(x) * MINI.bev_cells + int(y)] = 4.0, box
            waypoints[row, 2] = torch.from_numpy(frame.path_m)
        _, cell = select_peaks(heat, MINI.heatmap_queries, self.network.query_init.is_point)
        return replace(
            tensors,
            class_logits=logits,
            boxes=boxes,
            heat_logits=heat,
            dense_boxes=dense,
            query_cell=torch.cat([cell, tensors.query_cell[:, MINI.heatmap_queries :]], dim=1),
            waypoints_m=waypoints,
        )


def known_frames(count: int) -> list[TrainingFrame]:
    frames = mini_frames(count)
    return [replace(f, ego=np.concatenate([[np.float32(i + 1)], f.ego[1:]])) for i, f in enumerate(frames)]


def test_labels_are_those_of_the_frame() -> None:
    frame = make_frame(3, config=MINI)
    labels = labels_of(frame)
    assert labels.reference_ns == frame.reference_ns
    assert labels.category == tuple(CLASSES[i] for i in frame.class_index)
    np.testing.assert_allclose(labels.center_m, frame.boxes[:, :3])
    np.testing.assert_allclose(np.log(labels.size_m), frame.boxes[:, 3:6], atol=1e-6)
    np.testing.assert_allclose(np.sin(labels.yaw_rad), frame.boxes[:, 6], atol=1e-6)
    np.testing.assert_allclose(np.cos(labels.yaw_rad), frame.boxes[:, 7], atol=1e-6)
    assert len(labels_of(make_frame(3, config=MINI, objects=0))) == 0


def test_the_truth_scores_one_and_something_else_does_not() -> None:
    frames = known_frames(3)
    scores = validate(Oracle(frames), frames, CPU)  # type: ignore[arg-type]
    assert len(scores["subsets"]) == 7
    for of_subset in scores["subsets"].values():
        assert of_subset["map"] == pytest.approx(1.0)
        assert of_subset["dense_map"] == pytest.approx(1.0)
        assert of_subset["heatmap_recall"] == 1.0
    assert scores["nds"] > 0.9
    assert scores["min_ade_m"] == pytest.approx(0.0, abs=1e-5)
    assert scores["surest_ade_m"] >= scores["min_ade_m"]
    assert scores["arc_ade_m"] > 1.0
    wrong = validate(Oracle(frames, shift_m=5.0), frames, CPU, subsets=SUBSETS[:1])  # type: ignore[arg-type]
    assert wrong["map"] < 0.3
    assert wrong["subsets"]["camera+lidar+radar"]["heatmap_recall"] < 0.3


def test_few_frames_with_sensors_missing_more_with_all() -> None:
    frames = known_frames(8)
    scores = validate(build_network(MINI).eval(), frames, CPU, subsets=SUBSETS[:2], most=4)["subsets"]
    assert [of_subset["frames"] for of_subset in scores.values()] == [4, 1]


def test_labels_not_asked_for_are_neither_missed_nor_held_against_it() -> None:
    """Half of the labels count; the oracle finds the others too."""
    frames = known_frames(3)

    def half(frame: TrainingFrame, subset: object) -> NDArray[np.bool_]:
        return np.asarray(np.arange(len(frame.class_index)) % 2 == 0)

    scores = validate(Oracle(frames), frames, CPU, subsets=SUBSETS[:1], asked=half)  # type: ignore[arg-type]
    assert scores["map"] == pytest.approx(1.0)

    def none(frame: TrainingFrame, subset: object) -> NDArray[np.bool_]:
        return np.zeros(len(frame.class_index), dtype=np.bool_)

    assert validate(Oracle(frames), frames, CPU, subsets=SUBSETS[:1], asked=none)["map"] is None  # type: ignore[arg-type]


def test_frames_without_labels_or_sensors_give_no_score_and_no_error() -> None:
    empty = make_frame(1, config=MINI, objects=0, lidars=0, cameras=(), radar=False, clutter=0)
    scores = validate(build_network(MINI).eval(), [empty], CPU)
    assert scores["nds"] is None
    assert scores["subsets"]["radar"]["heatmap_recall"] is None


def test_the_dense_answer_is_what_an_untrained_decoder_repeats() -> None:
    """Corrections of nothing: both say the same of the same cells."""
    network = build_network(MINI).eval()
    for layer in (network.detection_head.label[-1], network.detection_head.box[-1]):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    batch = collate(mini_frames(2), MINI, 20)
    with torch.inference_mode():
        tensors = forward(network, batch, view_geometry(batch, MINI)).tensors
    dense = dense_answer(tensors)
    assert dense.boxes.shape == (1, 2, MINI.heatmap_queries, 10)
    torch.testing.assert_close(dense.boxes[0], tensors.boxes[-1, :, : MINI.heatmap_queries])
    torch.testing.assert_close(dense.class_logits[0], tensors.class_logits[-1, :, : MINI.heatmap_queries])


def test_paths_are_compared_where_they_are_known() -> None:
    frame = replace(make_frame(0, config=MINI), path_known=np.array([True, True, False, False, False, False]))
    with torch.no_grad():
        tensors = Oracle([frame]).fuse(_inputs(frame))
    tensors.waypoints_m[0, :, 2:] = 1e6
    best, surest, arc = path_errors(tensors, 0, frame, MINI)
    assert best == pytest.approx(0.0, abs=1e-5)
    assert surest == pytest.approx(
        float(
            (tensors.waypoints_m[0, tensors.mode_logits[0].argmax(), :2] - torch.from_numpy(frame.path_m[:2]))
            .norm(dim=-1)
            .mean()
        )
    )
    assert 0 < arc < 1.0


def test_what_each_sensor_can_see() -> None:
    camera, lidar, radar = (frozenset({modality}) for modality in (Modality.CAMERA, Modality.LIDAR, Modality.RADAR))
    frame = make_frame(5, config=MINI, objects=4)
    assert can_see(frame, lidar).all()
    assert can_see(frame, radar).all()
    assert (
        can_see(replace(frame, lidar_points=frame.lidar_points[-100:], lidar_count=np.array([100])), lidar).sum() == 0
    )
    assert can_see(replace(frame, radar_points=frame.radar_points[1:]), radar).tolist() == [False, True, True, True]
    ahead = frame.boxes.copy()
    ahead[:, :3] = np.array([[20, 0, 1], [-20, 0, 1], [20, 60, 1], [0.5, 0, 1]], dtype=np.float32)
    one = replace(
        frame,
        boxes=ahead,
        cameras=frame.cameras[:1],
        images=frame.images[:1],
        top_px=frame.top_px[:1],
        reference_SE3_camera=frame.reference_SE3_camera[:1],
        camera_age_s=frame.camera_age_s[:1],
    )
    assert can_see(one, camera).tolist() == [True, False, False, False]
    hidden = replace(one, visible_share=np.array([0.3, 1, 1, 1], dtype=np.float32))
    assert not can_see(hidden, camera).any()
    assert can_see(hidden, lidar).tolist() == can_see(one, lidar).tolist()
    unknown = replace(one, visible_share=np.full(4, np.nan, dtype=np.float32))
    assert can_see(unknown, camera).tolist() == can_see(one, camera).tolist()
    assert can_see(one, camera | lidar).tolist() == (can_see(one, camera) | can_see(one, lidar)).tolist()


@pytest.mark.parametrize("encoder", ["camera_encoder", "lidar_encoder", "radar_encoder"])
def test_gradients_reach_every_encoder_and_a_cut_is_found(encoder: str) -> None:
    frames, config = mini_frames(2), mini_config()
    network = build_network(MINI)
    assert judge_gradients(network, frames, config, CPU).is_passed
    network.get_submodule(encoder).register_forward_hook(lambda module, inputs, output: output.detach())
    report = judge_gradients(network, frames, config, CPU)
    failed = [check.name for check in report.checks if not check.is_passed]
    assert failed == [f"parameters of the {encoder} with a gradient"]


def test_the_overfit_gate_passes_the_truth_and_fails_an_untrained_network() -> None:
    frames = known_frames(2)
    passed = judge_overfit(Oracle(frames), frames, CPU, GATES["overfit"])  # type: ignore[arg-type]
    assert passed.is_passed
    assert len(passed.checks) == 9
    failed = judge_overfit(build_network(MINI).eval(), frames, CPU, GATES["overfit"])
    assert not failed.is_passed
    assert not any(check.is_passed for check in failed.checks if check.name.startswith("mAP"))


def _inputs(frame: TrainingFrame) -> FusionInputs:
    """Inputs with nothing in them but the ego."""
    cells, points = MINI.bev_cells**2, MINI.bev_cells**2 * len(MINI.lift_heights_m)
    no = torch.zeros(1, 0)
    return FusionInputs(
        camera_features=torch.zeros(1, 0, 8, MINI.width),
        camera_present=no.bool(),
        camera_rays=torch.zeros(1, 0, 8, 3),
        camera_origin_m=torch.zeros(1, 0, 3),
        camera_age_s=no,
        lift_camera=torch.zeros(1, points, 2, dtype=torch.int64),
        lift_uv=torch.zeros(1, points, 2, 2),
        lift_depth_m=torch.zeros(1, points, 2),
        lift_valid=torch.zeros(1, points, 2, dtype=torch.bool),
        lidar_features=torch.zeros(1, 0, cells, MINI.width),
        lidar_present=no.bool(),
        lidar_age_s=no,
        radar_features=torch.zeros(1, cells, MINI.width),
        radar_present=torch.tensor([False]),
        radar_age_s=torch.zeros(1),
        ego=torch.from_numpy(frame.ego)[None],
    )
