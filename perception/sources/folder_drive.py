"""What drives have in common that a data set keeps as a folder of files, one file for each message."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.sources.arrival import Pending, arrival_span, in_arrival_order


class FolderDrive:
    """A subclass finds the files and sets the four attributes; it adds what its data set knows of labels."""

    DATA_SET: ClassVar[str]

    _folder: Path
    _rig: SensorRig
    _notes: tuple[str, ...]
    _pending: Sequence[Pending]

    @property
    def drive_id(self) -> str:
        return f"{self.DATA_SET}/{self._folder.name}"

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def span_ns(self) -> tuple[int, int]:
        return arrival_span(self._pending)

    def messages(self) -> Iterator[AnyMessage]:
        return in_arrival_order(self._pending)

    def close(self) -> None:
        """Nothing is held open."""
