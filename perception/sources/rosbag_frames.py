"""Transforms of a bag as a tree of frames: `/tf_static`, and `/tf` where that leaves a sensor without a place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.core.geometry import invert, se3_from_quaternion

F64 = NDArray[np.float64]

EGO_FRAMES = ("base_footprint", "base_link", "ego_vehicle", "ego", "vehicle", "body")
"""Names of the ego frame, the one on the ground first."""

MAX_POSITION_M = 1e8
"""Coordinates of maps go to 1e7 (UTM); what is further is broken."""


def frame_name(name: str) -> str:
    """Without the slash that ROS 1 once put before it."""
    return name.lstrip("/")


def transform_of(transform: Any) -> F64:
    """(4, 4) of a `geometry_msgs/Transform`. Raises PayloadError where it is not finite or has no rotation."""
    place, turn = transform.translation, transform.rotation
    return rigid((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))


def rigid(position_m: Sequence[float], quaternion_xyzw: Sequence[float]) -> F64:
    """(4, 4) of a position and a quaternion in the order of ROS. Raises PayloadError where it is none."""
    x, y, z, w = quaternion_xyzw
    is_near = all(abs(value) < MAX_POSITION_M for value in position_m)
    if not is_near or not all(abs(value) < 2 for value in quaternion_xyzw) or x * x + y * y + z * z + w * w < 0.25:
        raise PayloadError("a transform is not finite, too far away or has no rotation")
    return se3_from_quaternion((w, x, y, z), position_m)


class Frames:
    """A forest of frames, each with its place in its parent."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, F64]] = {}

    def add(self, message: Any, *, replace: bool = True) -> None:
        """Take all transforms of a `TFMessage`; those of frames that have one only with `replace`.

        Raises PayloadError where one is not finite.
        """
        for stamped in message.transforms:
            child = frame_name(stamped.child_frame_id)
            if replace or child not in self._parents:
                self._parents[child] = (frame_name(stamped.header.frame_id), transform_of(stamped.transform))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._parents, *(parent for parent, _ in self._parents.values())}))

    def between(self, dst: str, src: str) -> F64 | None:
        """dst_SE3_src (4, 4), None where no chain of transforms leads from one to the other."""
        up_src, up_dst = self._ancestors(src), self._ancestors(dst)
        common = next((frame for frame in up_src if frame in up_dst), None)
        if common is None:
            return None
        return invert(up_dst[common]) @ up_src[common]

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """Parent and child of each transform, in the order they came."""
        return tuple((parent, child) for child, (parent, _) in self._parents.items())

    def completed(self, other: "Frames", body: str | None) -> "Frames":
        """These frames, and those of `other` that are not here; what moves `body` as a whole stays out."""
        both = Frames()
        both._parents = {**other._parents, **self._parents}
        if body is not None:
            *_, top = self._ancestors(body)
            both._parents.pop(top, None)
        return both

    def _ancestors(self, frame: str) -> dict[str, F64]:
        """ancestor_SE3_frame by ancestor, nearest first, the frame itself included; a circle ends where it closes."""
        found: dict[str, F64] = {frame: np.eye(4)}
        place = np.eye(4)
        while (step := self._parents.get(frame)) is not None and step[0] not in found:
            frame, place = step[0], step[1] @ place
            found[frame] = place
        return found
