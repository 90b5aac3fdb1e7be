"""What recorders are given while a drive is played."""

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.ports import Recorded, Recorder, Source
from perception.formats.mcap_decisions import DecisionRecord
from perception.queues.codec import encode
from perception.queues.mcap_layout import TOPIC, schema_and_channel
from perception.recorders.mcap import ResultFormat


def result_format() -> ResultFormat:
    """Results as the queues carry them, in a channel like that of `mcap:FILE`."""
    schema, _ = schema_and_channel()
    return ResultFormat(topic=TOPIC, schema=(schema.name, schema.encoding, schema.data), encode=encode)


@runtime_checkable
class DecisionRecorder(Recorder, Protocol):
    """A recorder that also keeps what a live run decides."""

    def write_decision(self, record: DecisionRecord) -> None: ...


class Recording:
    """Hands messages, the labels that belong to them, and results to recorders; from two threads, so behind a lock."""

    def __init__(self, source: Source, recorders: Sequence[Recorder]) -> None:
        self._source = source
        self._recorders = recorders
        self._unlabelled = set(source.label_times_ns) if recorders else set()
        self._lock = threading.Lock()

    def message(self, message: AnyMessage) -> None:
        self.write(message)
        if message.capture_ns in self._unlabelled and isinstance(message, LidarSweep | CameraFrame | RadarScan):
            self._unlabelled.discard(message.capture_ns)
            if (labels := self._source.labels(message.capture_ns)) is not None:
                self.write(labels)

    @property
    def keeps_decisions(self) -> bool:
        """Whether a recorder writes down what a live run decides."""
        return any(isinstance(recorder, DecisionRecorder) for recorder in self._recorders)

    def decision(self, record: DecisionRecord) -> None:
        with self._lock:
            for recorder in self._recorders:
                if isinstance(recorder, DecisionRecorder):
                    recorder.write_decision(record)

    def write(self, item: Recorded) -> None:
        with self._lock:
            for recorder in self._recorders:
                recorder.write(item)
