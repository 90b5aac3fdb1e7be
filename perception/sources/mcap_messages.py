"""Messages of a recorded drive out of the channels of its MCAP files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from mcap.records import Channel
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.errors import PayloadError
from perception.core.messages import AnyMessage, CameraFrame, SweepMotion, Unreadable
from perception.core.rig import Modality, SensorRig
from perception.formats import mcap_drive as names
from perception.formats.mcap_clouds import read_scan, read_sweep
from perception.formats.mcap_records import read_motion, read_route, read_unreadable, read_view
from perception.formats.wire import without_fields
from perception.sources.rosbag_storage import Record

View = tuple[int, CameraModel | None, NDArray[np.float64] | None]

_MODALITY = {
    names.IMAGE: Modality.CAMERA,
    names.VIEWED_IMAGE: Modality.CAMERA,
    names.VIEW: Modality.CAMERA,
    names.LIDAR: Modality.LIDAR,
    names.RADAR: Modality.RADAR,
}
_WITHOUT_ERROR = frozenset({names.VIEW, names.UNREADABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the messages of one channel are."""

    kind: str
    sensor: str
    motion: SweepMotion


def content_of(channel: Channel, rig: SensorRig) -> Content:
    """Raises PayloadError where a channel does not fit the rig."""
    kind, sensor = channel.metadata.get(names.KIND, ""), channel.metadata.get(names.SENSOR, "")
    modality = _MODALITY.get(kind)
    if modality is not None and (sensor not in rig or rig[sensor].modality is not modality):
        raise PayloadError(f"{channel.topic}: {sensor!r} is no {modality} of the rig")
    try:
        motion = SweepMotion(channel.metadata.get(names.MOTION, SweepMotion.RAW))
    except ValueError as error:
        raise PayloadError(f"{channel.topic}: {error}") from error
    return Content(kind=kind, sensor=sensor, motion=motion)


@dataclass(slots=True)
class Decoder:
    """Turns records, in the order of their log times, into messages in the order of their arrival.

    contents: by the name that a record has as its topic.
    """

    contents: dict[str, Content]
    _views: dict[str, View] = field(default_factory=dict)
    _newest_ns: int = 0

    def messages(self, records: Iterable[Record]) -> Iterator[AnyMessage]:
        for record in records:
            content = self.contents[record.topic]
            # A damaged block is met at the time of its first message, which may be a label of an earlier time.
            self._newest_ns = max(self._newest_ns, record.log_ns)
            try:
                message = self._read(content, record)
            except PayloadError as error:
                if content.kind in _WITHOUT_ERROR:
                    continue
                message = Unreadable(
                    sensor=content.sensor,
                    capture_ns=self._newest_ns,
                    arrival_ns=self._newest_ns,
                    error=str(error),
                )
            if message is not None:
                yield message

    def _read(self, content: Content, record: Record) -> AnyMessage | None:
        """None for what is no message but belongs to the next one."""
        if record.error is not None:
            raise PayloadError(record.error)
        sensor, data, arrival_ns = content.sensor, record.data, record.log_ns
        if content.kind == names.LIDAR:
            message: AnyMessage = read_sweep(data, sensor, arrival_ns, content.motion)
        elif content.kind == names.RADAR:
            message = read_scan(data, sensor, arrival_ns)
        elif content.kind in (names.IMAGE, names.VIEWED_IMAGE):
            message = self._read_image(content, data, arrival_ns)
        elif content.kind == names.EGO:
            message = read_motion(data, sensor, arrival_ns)
        elif content.kind == names.ROUTE:
            message = read_route(data, sensor, arrival_ns)
        elif content.kind == names.UNREADABLE:
            message = read_unreadable(data, arrival_ns)
        else:
            self._views[sensor] = read_view(data)
            return None
        if message.capture_ns > arrival_ns:
            raise PayloadError(f"{message.sensor}: captured {message.capture_ns - arrival_ns} ns after it arrived")
        return message

    def _read_image(self, content: Content, data: bytes | memoryview, arrival_ns: int) -> CameraFrame:
        try:
            _, (picture, stamp) = without_fields(
                data, CompressedImage.DATA_FIELD_NUMBER, CompressedImage.TIMESTAMP_FIELD_NUMBER
            )
            capture_ns = Timestamp.FromString(bytes(stamp)).ToNanoseconds()
        except (DecodeError, PayloadError, ValueError) as error:
            raise PayloadError(f"{content.sensor}: the message is no foxglove.CompressedImage ({error})") from error
        camera, mount = None, None
        if content.kind == names.VIEWED_IMAGE:
            view_ns, camera, mount = self._views.pop(content.sensor, (None, None, None))
            if view_ns != capture_ns:
                raise PayloadError(f"{content.sensor}: the calibration that came with this image is missing")
        return CameraFrame(
            sensor=content.sensor,
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            data=bytes(picture),
            calibration=camera,
            ego_SE3_sensor=mount,
        )
