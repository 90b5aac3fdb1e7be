"""The assignment of queries to objects is the cheapest there is."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from perception.core.taxonomy import CLASSES
from perception.models.boxes import BOX_FIELDS
from perception.training.matching import match, matching_cost
from perception.training.targets import Objects


def random_objects(random: torch.Generator, batch: int, count: int) -> Objects:
    return Objects(
        is_object=torch.rand(batch, count, generator=random) < 0.7,
        class_index=torch.randint(len(CLASSES), (batch, count), generator=random),
        boxes=torch.randn(batch, count, len(BOX_FIELDS), generator=random) * 3,
        is_moving_known=torch.ones(batch, count, dtype=torch.bool),
        attribute_index=torch.full((batch, count), -1),
    )


def cheapest(table: NDArray[np.float32]) -> float:
    """Least total of the table (Q, M) over all ways to pair as many as can be."""
    tall = table if table.shape[0] >= table.shape[1] else table.T
    ways = itertools.permutations(range(tall.shape[0]), tall.shape[1])
    return min(float(tall[list(rows), range(tall.shape[1])].sum()) for rows in ways)


@pytest.mark.parametrize(("queries", "objects"), [(5, 4), (3, 5), (4, 0), (6, 1)])
def test_the_assignment_is_that_of_brute_force(queries: int, objects: int) -> None:
    random = torch.Generator().manual_seed(queries * 10 + objects)
    truth = random_objects(random, 3, objects)
    logits = torch.randn(2, 3, queries, len(CLASSES), generator=random) * 2
    boxes = torch.randn(2, 3, queries, len(BOX_FIELDS), generator=random) * 3
    cost, found = matching_cost(logits, boxes, truth), match(logits, boxes, truth)
    for layer, row in itertools.product(range(2), range(3)):
        real = torch.nonzero(truth.is_object[row])[:, 0].tolist()
        assert not found.is_matched[layer, row][~truth.is_object[row]].any()
        pairs = [(int(found.query[layer, row, j]), j) for j in real if found.is_matched[layer, row, j]]
        assert len(pairs) == min(queries, len(real)) == len({query for query, _ in pairs})
        table = cost[layer, row].numpy()
        total = sum(float(table[pair]) for pair in pairs)
        best = cheapest(table[:, real])
        assert total == pytest.approx(best, abs=1e-5)


def test_the_cost_is_what_its_formula_says() -> None:
    random = torch.Generator().manual_seed(0)
    truth = random_objects(random, 1, 2)
    logits, boxes = torch.randn(1, 1, 3, len(CLASSES)), torch.randn(1, 1, 3, len(BOX_FIELDS))
    cost = matching_cost(logits, boxes, truth)[0, 0].numpy()
    for query, column in itertools.product(range(3), range(2)):
        score = 1 / (1 + np.exp(-float(logits[0, 0, query, truth.class_index[0, column]])))
        focal = 0.25 * (1 - score) ** 2 * -np.log(score) - 0.75 * score**2 * -np.log(1 - score)
        distance = float((boxes[0, 0, query, :8] - truth.boxes[0, column, :8]).abs().sum())
        assert cost[query, column] == pytest.approx(2 * focal + 0.25 * distance, rel=1e-4)


def test_broken_outputs_do_not_stop_the_matching() -> None:
    truth = random_objects(torch.Generator().manual_seed(1), 1, 4)
    logits, boxes = torch.full((1, 1, 5, len(CLASSES)), torch.nan), torch.full((1, 1, 5, len(BOX_FIELDS)), torch.inf)
    assert torch.equal(match(logits, boxes, truth).is_matched[0], truth.is_object)
