"""Frames that hold rare classes are drawn more often (repeat factors after Gupta et al., LVIS, CVPR 2019)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.training.frames import TrainingFrame


def balanced(frames: Sequence[TrainingFrame], share: float, seed: int) -> NDArray[np.int64]:
    """Indices (K,) of `frames` that make up one pass over the data: each at least once, rising.

    share: a class that is in fewer than this share of the frames, f, has its frames repeated sqrt(share / f) times; a
    frame goes by the rarest of its classes. Fractions of a repetition are drawn from `seed`. 0: each frame once.
    """
    if share == 0:
        return np.arange(len(frames))
    classes = [np.unique(frame.class_index[frame.class_index >= 0]) for frame in frames]
    present, count = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *classes]), return_counts=True)
    repeats = dict(zip(present.tolist(), np.sqrt(share * len(frames) / count).tolist(), strict=True))
    factor = np.array([max([1.0, *(repeats[index] for index in one.tolist())]) for one in classes])
    whole = np.floor(factor).astype(np.int64)
    extra = np.random.default_rng([seed, len(frames)]).random(len(frames)) < factor - whole
    return np.repeat(np.arange(len(frames)), whole + extra)
