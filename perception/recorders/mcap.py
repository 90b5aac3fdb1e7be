"""Records a drive as MCAP: sensor data, calibration, transforms, labels and results, for tools and to be played again.

Sensor data, ego states, routes and labels come back bit by bit (`perception/sources/mcap.py`). Log times are arrivals,
publish times captures; of labels both are their reference time. A result is logged when the newest message arrived.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.FrameTransforms_pb2 import FrameTransforms
from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
from foxglove_schemas_protobuf.PoseInFrame_pb2 import PoseInFrame
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError
from perception.core.labels import Labels
from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    EgoState,
    LidarSweep,
    RadarScan,
    RouteCommand,
    Unreadable,
)
from perception.core.ports import QueueItem, Recorded
from perception.core.results import EndOfRun, PerceptionResult
from perception.core.rig import SensorRig
from perception.formats import mcap_drive as names
from perception.formats.mcap_clouds import pack_scan, pack_sweep
from perception.formats.mcap_decisions import KIND as DECISIONS
from perception.formats.mcap_decisions import TOPIC as DECISIONS_TOPIC
from perception.formats.mcap_decisions import DecisionRecord, decision_schema, pack_decision
from perception.formats.mcap_drive import DRIVE_RECORD, EGO_FRAME, WORLD_FRAME, DriveRecord, pack_drive
from perception.formats.mcap_records import (
    JsonRecord,
    LabelsRecord,
    MotionRecord,
    RouteRecord,
    UnreadableRecord,
    ViewRecord,
    json_schema,
    pack_record,
    pack_view,
)
from perception.recorders.mcap_files import ChannelKey, FileSeries, Rotation
from perception.recorders.mcap_foxglove import (
    MessageType,
    pack_calibration,
    pack_image,
    pack_pose,
    pack_transforms,
    protobuf_schema,
)
from perception.recorders.mcap_scenes import label_scene, result_scene

TRANSFORMS_TOPIC: Final = "/tf"
POSE_TOPIC: Final = "/ego/pose"
MOTION_TOPIC: Final = "/ego/motion"
ROUTE_TOPIC: Final = "/route"
UNREADABLE_TOPIC: Final = "/unreadable"
LABELS_TOPIC: Final = "/labels"
LABEL_SCENE_TOPIC: Final = "/labels/boxes"
RESULT_SCENE_TOPIC: Final = "/perception/boxes"

_PACKAGES: Final = ("perception", "mcap", "foxglove-schemas-protobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFormat:
    """How results are written. schema: name, encoding and definition. encode: raises QueueError."""

    topic: str
    schema: tuple[str, str, bytes]
    encode: Callable[[QueueItem], bytes]


class McapRecorder:
    """Writes one drive to `path`, and where it rotates to `path` with `_0001` and so on before its suffix.

    Messages come in the order of their arrival; labels and results at any time. Memory is bounded by a chunk, and an
    index of some 300 bytes for each chunk. A recorder that is killed leaves a file that is read up to its last whole
    chunk. Raises DriveError where a file exists, the disk refuses, or a time or number does not fit.
    notes: of the source. provenance: where the drive comes from, in free words. results: needed to write results.
    """

    def __init__(
        self,
        path: Path | str,
        rig: SensorRig,
        drive_id: str,
        *,
        notes: Sequence[str] = (),
        provenance: Mapping[str, str] | None = None,
        results: ResultFormat | None = None,
        rotation: Rotation | None = None,
    ) -> None:
        self._rig = rig
        self._drive_id = drive_id
        self._notes = tuple(notes)
        self._provenance = dict(provenance or {})
        self._results = results
        self._newest_ns: int | None = None
        self._is_begun = False
        self._files = FileSeries(Path(path), rotation or Rotation(), self._drive_record)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those begun so far."""
        return self._files.files

    def write(self, item: Recorded) -> None:
        if isinstance(item, Labels):
            self._write_labels(item)
        elif isinstance(item, PerceptionResult | EndOfRun):
            self._write_result(item)
        else:
            self._write_message(item)

    def write_decision(self, record: DecisionRecord) -> None:
        """What a live run decided; logged when the newest message arrived."""
        key = ChannelKey(
            topic=DECISIONS_TOPIC, encoding="json", schema=decision_schema(), metadata=((names.KIND, DECISIONS),)
        )
        time_ns = self._newest_ns or 0
        self._files.write(key, time_ns, time_ns, pack_decision(record))

    def close(self) -> None:
        """Write the index of the last file."""
        self._files.close()

    def _drive_record(self, recording: str, part: int) -> tuple[str, dict[str, str]]:
        record = DriveRecord(
            drive_id=self._drive_id,
            rig=self._rig,
            recording=recording,
            part=part,
            notes=self._notes,
            provenance=self._provenance,
        )
        return DRIVE_RECORD, pack_drive(record, {name: version(name) for name in _PACKAGES})

    def _write_message(self, message: AnyMessage) -> None:
        arrival_ns = message.arrival_ns
        if self._newest_ns is not None and arrival_ns < self._newest_ns:
            raise DriveError(f"{message.sensor}: a message that arrived at {arrival_ns} ns came after a later one")
        if self._files.is_due(arrival_ns):
            self._files.rotate()
            self._is_begun = False
        if not self._is_begun:
            self._is_begun = True
            self._write_rig(arrival_ns)
        self._newest_ns = arrival_ns
        if isinstance(message, CameraFrame):
            self._write_image(message)
        elif isinstance(message, LidarSweep):
            extra = {names.MOTION: message.motion.value}
            key = _protobuf(f"/{message.sensor}/points", PointCloud, names.LIDAR, self._known(message), **extra)
            self._put(key, message, pack_sweep(message))
        elif isinstance(message, RadarScan):
            key = _protobuf(f"/{message.sensor}/points", PointCloud, names.RADAR, self._known(message))
            self._put(key, message, pack_scan(message))
        else:
            self._write_side(message)

    def _write_side(self, message: EgoState | RouteCommand | Unreadable) -> None:
        if isinstance(message, EgoState):
            self._put(_json(MOTION_TOPIC, MotionRecord, names.EGO, message.sensor), message, pack_record(message))
            if message.world_SE3_ego is not None:
                transform = pack_transforms(WORLD_FRAME, {EGO_FRAME: message.world_SE3_ego}, message.capture_ns)
                self._put(_protobuf(TRANSFORMS_TOPIC, FrameTransforms), message, transform)
                pose = pack_pose(message.world_SE3_ego, message.capture_ns)
                self._put(_protobuf(POSE_TOPIC, PoseInFrame), message, pose)
        elif isinstance(message, RouteCommand):
            self._put(_json(ROUTE_TOPIC, RouteRecord, names.ROUTE, message.sensor), message, pack_record(message))
        else:
            key = _json(UNREADABLE_TOPIC, UnreadableRecord, names.UNREADABLE, "")
            self._put(key, message, pack_record(message))

    def _write_image(self, frame: CameraFrame) -> None:
        kind, sensor = names.IMAGE, self._known(frame)
        if frame.calibration is not None or frame.ego_SE3_sensor is not None:
            kind = names.VIEWED_IMAGE
            self._put(_json(f"/{sensor}/view", ViewRecord, names.VIEW, sensor), frame, pack_view(frame))
            if frame.calibration is not None:
                self._write_calibration(sensor, frame.calibration, frame.arrival_ns, frame.capture_ns)
            if frame.ego_SE3_sensor is not None:
                transform = pack_transforms(EGO_FRAME, {sensor: frame.ego_SE3_sensor}, frame.capture_ns)
                self._put(_protobuf(TRANSFORMS_TOPIC, FrameTransforms), frame, transform)
        self._put(_protobuf(f"/{sensor}/image", CompressedImage, kind, sensor), frame, pack_image(frame))

    def _write_labels(self, labels: Labels) -> None:
        time_ns = labels.reference_ns
        record = pack_record(labels)
        self._files.write(_json(LABELS_TOPIC, LabelsRecord, names.LABELS, ""), time_ns, time_ns, record)
        self._files.write(_protobuf(LABEL_SCENE_TOPIC, SceneUpdate), time_ns, time_ns, label_scene(labels))

    def _write_result(self, item: QueueItem) -> None:
        if self._results is None:
            raise DriveError(f"{self.files[0]}: results cannot be recorded without their format; pass `results`")
        reference_ns = item.reference_ns if isinstance(item, PerceptionResult) else 0
        log_ns = self._newest_ns if self._newest_ns is not None else reference_ns
        key = ChannelKey(
            topic=self._results.topic,
            encoding="protobuf",
            schema=self._results.schema,
            metadata=((names.KIND, names.RESULTS),),
        )
        self._files.write(key, log_ns, reference_ns, self._results.encode(item))
        if isinstance(item, PerceptionResult):
            self._files.write(_protobuf(RESULT_SCENE_TOPIC, SceneUpdate), log_ns, reference_ns, result_scene(item))

    def _write_rig(self, time_ns: int) -> None:
        """What a viewer needs to place the sensors, once in each file."""
        mounts = {sensor.name: sensor.ego_SE3_sensor for sensor in self._rig.sensors}
        transforms = pack_transforms(EGO_FRAME, mounts, time_ns)
        self._files.write(_protobuf(TRANSFORMS_TOPIC, FrameTransforms), time_ns, time_ns, transforms)
        for sensor in self._rig.sensors:
            if sensor.camera is not None:
                self._write_calibration(sensor.name, sensor.camera, time_ns, time_ns)

    def _write_calibration(self, sensor: str, camera: CameraModel, log_ns: int, time_ns: int) -> None:
        key = _protobuf(f"/{sensor}/calibration", CameraCalibration)
        self._files.write(key, log_ns, time_ns, pack_calibration(sensor, camera, time_ns))

    def _known(self, message: CameraFrame | LidarSweep | RadarScan) -> str:
        if message.sensor not in self._rig:
            raise DriveError(f"{message.sensor}: not a sensor of the rig that is being recorded")
        return message.sensor

    def _put(self, key: ChannelKey, message: AnyMessage, data: bytes) -> None:
        self._files.write(key, message.arrival_ns, message.capture_ns, data)


def _protobuf(topic: str, message: MessageType, kind: str = "", sensor: str = "", **more: str) -> ChannelKey:
    return ChannelKey(
        topic=topic, encoding="protobuf", schema=protobuf_schema(message), metadata=_metadata(kind, sensor, more)
    )


def _json(topic: str, record: type[JsonRecord], kind: str, sensor: str) -> ChannelKey:
    schema = (f"perception.{record.__name__}", "jsonschema", json_schema(record))
    return ChannelKey(topic=topic, encoding="json", schema=schema, metadata=_metadata(kind, sensor, {}))


def _metadata(kind: str, sensor: str, more: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    given = {names.KIND: kind, names.SENSOR: sensor, **more}
    return tuple((name, value) for name, value in given.items() if value)
