"""Calibration, transforms and images as messages of Foxglove. Schemas: https://docs.foxglove.dev (Schemas)."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.FrameTransforms_pb2 import FrameTransforms
from foxglove_schemas_protobuf.Pose_pb2 import Pose
from foxglove_schemas_protobuf.PoseInFrame_pb2 import PoseInFrame
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.geometry import rotation_to_quaternion
from perception.core.messages import CameraFrame
from perception.formats.mcap_drive import WORLD_FRAME

F64 = NDArray[np.float64]

MessageType: TypeAlias = Any
"""A generated class of protobuf, whose stubs lack a metaclass that could be hashed."""

_PNG: Final = b"\x89PNG"


@cache
def protobuf_schema(message: MessageType) -> tuple[str, str, bytes]:
    """Name, encoding and definition of a message's type: a `FileDescriptorSet` with all that it needs.

    Protocol: https://mcap.dev/spec/registry (protobuf).
    """
    files: dict[str, Any] = {}

    def add(file: Any) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = file

    add(message.DESCRIPTOR.file)
    described = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(described.file.add())
    return message.DESCRIPTOR.full_name, "protobuf", described.SerializeToString(deterministic=True)


def pack_image(frame: CameraFrame) -> bytes:
    image_format = "png" if frame.data.startswith(_PNG) else "jpeg"
    image = CompressedImage(frame_id=frame.sensor, data=frame.data, format=image_format)
    image.timestamp.FromNanoseconds(frame.capture_ns)
    return image.SerializeToString()


def pack_calibration(sensor: str, camera: CameraModel, time_ns: int) -> bytes:
    """Intrinsics as Foxglove takes them; a `mei` lens is named so, which Foxglove shows without distortion."""
    model, coefficients = _distortion(camera)
    k = camera.intrinsic
    calibration = CameraCalibration(
        frame_id=sensor,
        width=camera.width_px,
        height=camera.height_px,
        distortion_model=model,
        D=coefficients,
        K=k.ravel().tolist(),
        R=np.eye(3).ravel().tolist(),
        P=np.c_[k, np.zeros(3)].ravel().tolist(),
    )
    calibration.timestamp.FromNanoseconds(time_ns)
    return calibration.SerializeToString()


def pack_transforms(parent: str, parent_SE3_child: Mapping[str, F64], time_ns: int) -> bytes:
    """Where frames (4, 4) sit in the frame `parent`."""
    message = FrameTransforms()
    for child, transform in parent_SE3_child.items():
        added = message.transforms.add(parent_frame_id=parent, child_frame_id=child)
        added.timestamp.FromNanoseconds(time_ns)
        fill_vector(added.translation, transform[:3, 3])
        _fill_quaternion(added.rotation, transform[:3, :3])
    return message.SerializeToString()


def pack_pose(world_SE3_ego: F64, time_ns: int) -> bytes:
    message = PoseInFrame(frame_id=WORLD_FRAME)
    message.timestamp.FromNanoseconds(time_ns)
    fill_pose(message.pose, world_SE3_ego[:3, 3], world_SE3_ego[:3, :3])
    return message.SerializeToString()


def fill_pose(pose: Pose, position_m: NDArray[np.floating], rotation: F64) -> None:
    """position_m: (3,). rotation: (3, 3)."""
    fill_vector(pose.position, position_m)
    _fill_quaternion(pose.orientation, rotation)


def fill_vector(vector: Any, values: NDArray[np.floating]) -> None:
    """x, y and z of a Vector3 or Point3 from (3,)."""
    vector.x, vector.y, vector.z = values.tolist()


def _fill_quaternion(quaternion: Any, rotation: F64) -> None:
    quaternion.w, quaternion.x, quaternion.y, quaternion.z = rotation_to_quaternion(rotation).tolist()


def _distortion(camera: CameraModel) -> tuple[str, list[float]]:
    coefficients: list[float] = camera.distortion.tolist()
    if camera.projection is Projection.KANNALA_BRANDT:
        return "kannala_brandt", coefficients
    if camera.projection is Projection.MEI:
        return camera.projection.value, [camera.xi, *coefficients]
    if len(coefficients) == 8:
        return "rational_polynomial", coefficients
    return "plumb_bob", (coefficients + [0.0] * 5)[:5]
