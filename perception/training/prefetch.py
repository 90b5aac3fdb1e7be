"""Reads and collates the batches of the next steps beside the training, in a thread."""

import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import fields, replace

import torch

from perception.config.schema import ModelConfig
from perception.config.training import TrainingConfig
from perception.training.balance import balanced
from perception.training.batch import TrainingBatch
from perception.training.collate import collate
from perception.training.dataset import sample_order
from perception.training.frames import TrainingFrame
from perception.training.stage_times import StageTimes
from perception.training.workers import Workers

AHEAD = 2
POLL_S = 0.2


class Prefetch:
    """Batches of the steps from `first_step` on, in order; which frames are in them depends on the step alone.

    A step's batch comes in pieces of `micro_batch` frames whose gradients are added up.
    """

    def __init__(
        self,
        frames: Sequence[TrainingFrame],
        config: TrainingConfig,
        model: ModelConfig,
        workers: Workers,
        times: StageTimes,
        *,
        first_step: int,
        pin: bool,
    ) -> None:
        self._frames, self._config, self._model = frames, config, model
        self._workers, self._times, self._pin = workers, times, pin
        self._drawn = balanced(frames, config.balance, config.seed)
        self._ready: queue.Queue[list[TrainingBatch] | BaseException] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(first_step,), name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> list[TrainingBatch]:
        """The pieces of the next step's batch. Raises what reading them raised."""
        with self._times.stage("wait"):
            pieces = self._ready.get()
        if isinstance(pieces, BaseException):
            raise pieces
        return pieces

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _work(self, step: int) -> None:
        try:
            while not self._closed.is_set():
                self._hand_over(self._make(step))
                step += 1
        except Exception as error:  # raised again by whoever takes the next batch
            self._hand_over(error)

    def _hand_over(self, item: list[TrainingBatch] | BaseException) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=POLL_S)
                return

    def _make(self, step: int) -> list[TrainingBatch]:
        config = self._config
        order = self._workers.share(sample_order(len(self._drawn), step, config.batch_size, config.seed))
        with self._times.stage("read"):
            frames = [self._frames[int(self._drawn[place])] for place in order]
        size = config.micro_batch or len(frames)
        with self._times.stage("collate"):
            pieces = [
                collate(frames[start : start + size], self._model, config.data.max_boxes)
                for start in range(0, len(frames), size)
            ]
            return [_pinned(piece) for piece in pieces] if self._pin else pieces


def _pinned(batch: TrainingBatch) -> TrainingBatch:
    """The batch in page-locked memory, from where a GPU fetches it without the host waiting."""
    return replace(batch, **{field.name: getattr(batch, field.name).pin_memory() for field in fields(batch)})


def to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    return batch if device.type == "cpu" else batch.to(device, non_blocking=True)
