"""Rare classes are seen more often: their frames are drawn again, and their objects are pasted first."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.core.taxonomy import NO_CLASS
from perception.training.balance import balanced
from perception.training.paste import preference
from tests.training_scenes import make_frame


def test_frames_of_rare_classes_are_drawn_more_often_and_none_is_left_out() -> None:
    """One frame in twenty holds a bus: below a share of a fifth, so it comes sqrt(0.2 / 0.05) = 2 times."""
    frames = [make_frame(i, objects=3) for i in range(20)]
    cars = [replace(frame, class_index=np.zeros(3, dtype=np.int64)) for frame in frames]
    mixed = [replace(cars[0], class_index=np.array([0, 2, NO_CLASS])), *cars[1:]]
    assert balanced(mixed, 0.2, seed=0).tolist() == [0, *range(20)]
    assert balanced(mixed, 0.0, seed=0).tolist() == list(range(20))
    assert balanced(cars, 1.0, seed=0).tolist() == list(range(20))
    nothing = [replace(frame, class_index=np.full(3, NO_CLASS)) for frame in frames]
    assert balanced(nothing, 0.5, seed=0).tolist() == list(range(20))


def test_a_part_of_a_repetition_is_drawn_from_the_seed() -> None:
    """A class in 5 of 100 frames at a share of 0.1: 1.41 times each, so once or twice."""
    car = replace(make_frame(0, objects=1), class_index=np.zeros(1, dtype=np.int64))
    bus = replace(car, class_index=np.full(1, 2))
    frames = [bus if i % 20 == 0 else car for i in range(100)]
    passes = [balanced(frames, 0.1, seed) for seed in range(200)]
    often = np.mean([(one % 20 == 0).sum() / 5 for one in passes])
    assert often == pytest.approx(2**0.5, abs=0.06)
    assert np.array_equal(passes[0], balanced(frames, 0.1, 0))


def test_objects_of_rare_classes_are_pasted_first() -> None:
    """Thirty cars weigh as much as one bus: four draws miss it in about one of 18, and never take an empty row."""
    classes = torch.tensor([[0] * 30 + [2] + [NO_CLASS] * 9])
    chosen = [preference(classes, torch.Generator().manual_seed(seed)).topk(4).indices[0] for seed in range(100)]
    assert sum(30 in one for one in chosen) > 85
    assert all((one <= 30).all() for one in chosen)
    assert len({tuple(sorted(one.tolist())) for one in chosen}) > 50
