from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueueItem(_message.Message):
    __slots__ = ("schema", "result", "end_of_run")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    END_OF_RUN_FIELD_NUMBER: _ClassVar[int]
    schema: int
    result: PerceptionResult
    end_of_run: EndOfRun
    def __init__(self, schema: _Optional[int] = ..., result: _Optional[_Union[PerceptionResult, _Mapping]] = ..., end_of_run: _Optional[_Union[EndOfRun, _Mapping]] = ...) -> None: ...

class PerceptionResult(_message.Message):
    __slots__ = ("drive_id", "run_id", "sequence", "reference_ns", "published_ns", "detections", "path_hints", "target_speed_mps", "sensors", "world_SE3_ego", "provenance", "ego_velocity_mps", "ego_yaw_rate_radps", "published_drive_ns", "predicted_to_ns", "degraded")
    DRIVE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_NS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_NS_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    PATH_HINTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_SPEED_MPS_FIELD_NUMBER: _ClassVar[int]
    SENSORS_FIELD_NUMBER: _ClassVar[int]
    WORLD_SE3_EGO_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    EGO_VELOCITY_MPS_FIELD_NUMBER: _ClassVar[int]
    EGO_YAW_RATE_RADPS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_DRIVE_NS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_TO_NS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    drive_id: str
    run_id: str
    sequence: int
    reference_ns: int
    published_ns: int
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    path_hints: _containers.RepeatedCompositeFieldContainer[PathHint]
    target_speed_mps: float
    sensors: _containers.RepeatedCompositeFieldContainer[SensorStatus]
    world_SE3_ego: Pose
    provenance: Provenance
    ego_velocity_mps: _containers.RepeatedScalarFieldContainer[float]
    ego_yaw_rate_radps: float
    published_drive_ns: int
    predicted_to_ns: int
    degraded: bool
    def __init__(self, drive_id: _Optional[str] = ..., run_id: _Optional[str] = ..., sequence: _Optional[int] = ..., reference_ns: _Optional[int] = ..., published_ns: _Optional[int] = ..., detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., path_hints: _Optional[_Iterable[_Union[PathHint, _Mapping]]] = ..., target_speed_mps: _Optional[float] = ..., sensors: _Optional[_Iterable[_Union[SensorStatus, _Mapping]]] = ..., world_SE3_ego: _Optional[_Union[Pose, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., ego_velocity_mps: _Optional[_Iterable[float]] = ..., ego_yaw_rate_radps: _Optional[float] = ..., published_drive_ns: _Optional[int] = ..., predicted_to_ns: _Optional[int] = ..., degraded: _Optional[bool] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("label", "score", "center_m", "size_m", "yaw_rad", "velocity_mps", "attribute", "track_id")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CENTER_M_FIELD_NUMBER: _ClassVar[int]
    SIZE_M_FIELD_NUMBER: _ClassVar[int]
    YAW_RAD_FIELD_NUMBER: _ClassVar[int]
    VELOCITY_MPS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    TRACK_ID_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    center_m: _containers.RepeatedScalarFieldContainer[float]
    size_m: _containers.RepeatedScalarFieldContainer[float]
    yaw_rad: float
    velocity_mps: _containers.RepeatedScalarFieldContainer[float]
    attribute: str
    track_id: int
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ..., center_m: _Optional[_Iterable[float]] = ..., size_m: _Optional[_Iterable[float]] = ..., yaw_rad: _Optional[float] = ..., velocity_mps: _Optional[_Iterable[float]] = ..., attribute: _Optional[str] = ..., track_id: _Optional[int] = ...) -> None: ...

class PathHint(_message.Message):
    __slots__ = ("confidence", "waypoints_m", "times_s")
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    WAYPOINTS_M_FIELD_NUMBER: _ClassVar[int]
    TIMES_S_FIELD_NUMBER: _ClassVar[int]
    confidence: float
    waypoints_m: _containers.RepeatedCompositeFieldContainer[Waypoint]
    times_s: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, confidence: _Optional[float] = ..., waypoints_m: _Optional[_Iterable[_Union[Waypoint, _Mapping]]] = ..., times_s: _Optional[_Iterable[float]] = ...) -> None: ...

class Waypoint(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class SensorStatus(_message.Message):
    __slots__ = ("name", "modality", "present", "age_ns", "alive", "valid", "frequency_hz", "jitter_ns", "faults", "masked")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_HZ_FIELD_NUMBER: _ClassVar[int]
    JITTER_NS_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    name: str
    modality: str
    present: bool
    age_ns: int
    alive: bool
    valid: bool
    frequency_hz: float
    jitter_ns: int
    faults: _containers.RepeatedCompositeFieldContainer[SensorFault]
    masked: bool
    def __init__(self, name: _Optional[str] = ..., modality: _Optional[str] = ..., present: _Optional[bool] = ..., age_ns: _Optional[int] = ..., alive: _Optional[bool] = ..., valid: _Optional[bool] = ..., frequency_hz: _Optional[float] = ..., jitter_ns: _Optional[int] = ..., faults: _Optional[_Iterable[_Union[SensorFault, _Mapping]]] = ..., masked: _Optional[bool] = ...) -> None: ...

class SensorFault(_message.Message):
    __slots__ = ("kind", "since_ns", "severity", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: str
    since_ns: int
    severity: str
    detail: str
    def __init__(self, kind: _Optional[str] = ..., since_ns: _Optional[int] = ..., severity: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Pose(_message.Message):
    __slots__ = ("position_m", "quaternion_wxyz")
    POSITION_M_FIELD_NUMBER: _ClassVar[int]
    QUATERNION_WXYZ_FIELD_NUMBER: _ClassVar[int]
    position_m: _containers.RepeatedScalarFieldContainer[float]
    quaternion_wxyz: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, position_m: _Optional[_Iterable[float]] = ..., quaternion_wxyz: _Optional[_Iterable[float]] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model", "model_hash", "trained", "calibration_hash", "ego_motion", "placement", "deadline_slack_ns", "stage_latency_ns", "dropped", "restarts", "quarantined", "publication_slack_ns", "ladder_level", "ladder_rung", "ladder_change")
    class StageLatencyNsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RestartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_HASH_FIELD_NUMBER: _ClassVar[int]
    EGO_MOTION_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SLACK_NS_FIELD_NUMBER: _ClassVar[int]
    STAGE_LATENCY_NS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    PUBLICATION_SLACK_NS_FIELD_NUMBER: _ClassVar[int]
    LADDER_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LADDER_RUNG_FIELD_NUMBER: _ClassVar[int]
    LADDER_CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_hash: str
    trained: bool
    calibration_hash: str
    ego_motion: str
    placement: str
    deadline_slack_ns: int
    stage_latency_ns: _containers.ScalarMap[str, int]
    dropped: _containers.ScalarMap[str, int]
    restarts: _containers.ScalarMap[str, int]
    quarantined: _containers.RepeatedScalarFieldContainer[str]
    publication_slack_ns: int
    ladder_level: int
    ladder_rung: str
    ladder_change: str
    def __init__(self, model: _Optional[str] = ..., model_hash: _Optional[str] = ..., trained: _Optional[bool] = ..., calibration_hash: _Optional[str] = ..., ego_motion: _Optional[str] = ..., placement: _Optional[str] = ..., deadline_slack_ns: _Optional[int] = ..., stage_latency_ns: _Optional[_Mapping[str, int]] = ..., dropped: _Optional[_Mapping[str, int]] = ..., restarts: _Optional[_Mapping[str, int]] = ..., quarantined: _Optional[_Iterable[str]] = ..., publication_slack_ns: _Optional[int] = ..., ladder_level: _Optional[int] = ..., ladder_rung: _Optional[str] = ..., ladder_change: _Optional[str] = ...) -> None: ...

class EndOfRun(_message.Message):
    __slots__ = ("drive_id", "run_id", "count", "reason")
    DRIVE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    drive_id: str
    run_id: str
    count: int
    reason: str
    def __init__(self, drive_id: _Optional[str] = ..., run_id: _Optional[str] = ..., count: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
