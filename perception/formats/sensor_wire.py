"""Sensor messages as bytes, one by one, for streams between processes: a JSON head, then what the sensor saw.

Points are `foxglove.PointCloud`, images the camera's own JPEG or PNG, the rest the JSON records of MCAP drives.
"""

import struct
from typing import Final

import msgspec

from perception.core.errors import PayloadError
from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    EgoState,
    LidarSweep,
    RadarScan,
    RouteCommand,
    SweepMotion,
)
from perception.formats import mcap_drive as names
from perception.formats.mcap_clouds import pack_scan, pack_sweep, read_scan, read_sweep
from perception.formats.mcap_records import (
    pack_record,
    pack_view,
    read_motion,
    read_route,
    read_unreadable,
    read_view,
)

DRIVE: Final = "drive"
END: Final = "end"
LENGTH: Final = struct.Struct("<I")


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """kind: as in MCAP drives, or `DRIVE` or `END`. number: counts messages, to see that some were lost.

    arrival_ns: when the message came to whoever publishes it; 0: it comes now. view: JSON of the image's own
    calibration.
    """

    kind: str
    number: int
    sensor: str = ""
    capture_ns: int = 0
    arrival_ns: int = 0
    motion: SweepMotion = SweepMotion.RAW
    view: str = ""


def pack_part(head: Head, body: bytes = b"") -> bytes:
    first = msgspec.json.encode(head)
    return LENGTH.pack(len(first)) + first + body


def read_part(data: bytes) -> tuple[Head, memoryview]:
    """Head and body. Raises PayloadError where the bytes are none."""
    view = memoryview(data)
    if len(view) < LENGTH.size:
        raise PayloadError("a sensor message is too short for its head")
    length = LENGTH.unpack_from(view)[0]
    try:
        head = msgspec.json.decode(view[LENGTH.size : LENGTH.size + length], type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(f"the head of a sensor message is malformed ({error})") from error
    return head, view[LENGTH.size + length :]


def pack_message(message: AnyMessage, number: int) -> bytes:
    """Raises DriveError where a number is infinite."""
    kind, motion, view, body = _body(message)
    head = Head(
        kind=kind,
        number=number,
        sensor=message.sensor,
        capture_ns=int(message.capture_ns),
        arrival_ns=int(message.arrival_ns),
        motion=motion,
        view=view,
    )
    return pack_part(head, body)


def read_message(head: Head, body: memoryview, now_ns: int) -> AnyMessage:
    """The message of a part. now_ns: its arrival, where the head gives none. Raises PayloadError where it is broken."""
    arrival_ns = head.arrival_ns or now_ns
    if head.kind == names.LIDAR:
        return read_sweep(body, head.sensor, arrival_ns, head.motion)
    if head.kind == names.RADAR:
        return read_scan(body, head.sensor, arrival_ns)
    if head.kind == names.EGO:
        return read_motion(body, head.sensor, arrival_ns)
    if head.kind == names.ROUTE:
        return read_route(body, head.sensor, arrival_ns)
    if head.kind == names.UNREADABLE:
        return read_unreadable(body, arrival_ns)
    if head.kind != names.IMAGE:
        raise PayloadError(f"a sensor message of kind {head.kind!r} is not known")
    camera, mount = None, None
    if head.view:
        _, camera, mount = read_view(head.view.encode())
    return CameraFrame(
        sensor=head.sensor,
        capture_ns=head.capture_ns,
        arrival_ns=arrival_ns,
        data=bytes(body),
        calibration=camera,
        ego_SE3_sensor=mount,
    )


def _body(message: AnyMessage) -> tuple[str, SweepMotion, str, bytes]:
    """Kind, motion of a sweep, view of an image, and the body."""
    raw = SweepMotion.RAW
    if isinstance(message, CameraFrame):
        has_view = message.calibration is not None or message.ego_SE3_sensor is not None
        return names.IMAGE, raw, pack_view(message).decode() if has_view else "", bytes(message.data)
    if isinstance(message, LidarSweep):
        return names.LIDAR, message.motion, "", pack_sweep(message)
    if isinstance(message, RadarScan):
        return names.RADAR, raw, "", pack_scan(message)
    if isinstance(message, EgoState):
        return names.EGO, raw, "", pack_record(message)
    if isinstance(message, RouteCommand):
        return names.ROUTE, raw, "", pack_record(message)
    return names.UNREADABLE, raw, "", pack_record(message)
