"""Names that ROS 2 nodes on `rmw_zenoh` use: keys of messages, tokens of publishers, what is attached to a message.

The key of a message is `<domain>/<topic>/<type>/<hash of the type>`, its attachment a 64-bit number, a 64-bit time and
16 bytes naming the publisher; nodes, publishers and subscriptions show themselves by liveliness tokens under
`@ros2_lv` (docs/design.md and liveliness_utils.cpp of github.com/ros2/rmw_zenoh, releases from Jazzy on; hashes: REP
2016).
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

ROUTER: Final = "tcp/127.0.0.1:7447"
"""Where `ros2 run rmw_zenoh_cpp rmw_zenohd` listens."""
MAX_DOMAIN: Final = 232
DEFAULT_QOS: Final = "::,:,:,:,,"
GID_BYTES: Final = 16
UNKNOWN_HASH: Final = "TypeHashNotSupported"
"""What releases write that have no hashes."""

_TOKENS: Final = "@ros2_lv"
_ATTACHMENT: Final = struct.Struct(f"<qqB{GID_BYTES}s")
# Domain, session, node, entity, kind, enclave, namespace, node's name, topic, type, hash; the first part is _TOKENS.
_KIND, _TOPIC, _TYPE, _HASH = 5, 9, 10, 11


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is published on a topic. type_name: `package/msg/Name`. type_hash: as `RIHS01_...`, or `UNKNOWN_HASH`."""

    topic: str
    type_name: str
    type_hash: str

    def key(self, domain: int, *, any_hash: bool = False) -> str:
        """The key of its messages, of whatever hash with `any_hash`."""
        return f"{domain}/{self.topic.strip('/')}/{_dds_type(self.type_name)}/{'*' if any_hash else self.type_hash}"


def node_token(domain: int, session: str, node: str) -> str:
    return f"{_TOKENS}/{domain}/{session}/0/0/NN/%/%/{node}"


def endpoint_token(
    domain: int, session: str, node: str, endpoint: Endpoint, *, entity: int, kind: Literal["MP", "MS"]
) -> str:
    """The token of a publisher (`MP`) or subscription (`MS`). entity: its number in the session."""
    topic, type_name = _mangled(endpoint.topic), _dds_type(endpoint.type_name)
    return (
        f"{_TOKENS}/{domain}/{session}/0/{entity}/{kind}/%/%/{node}/{topic}/{type_name}/{endpoint.type_hash}/"
        f"{DEFAULT_QOS}"
    )


def all_publishers(domain: int) -> str:
    """Stands for the tokens of all publishers of a domain."""
    return f"{_TOKENS}/{domain}/*/*/*/MP/**"


def read_publisher(token: str) -> Endpoint | None:
    """What the token of a publisher tells; None for another token. Later releases append to tokens."""
    parts = token.split("/")
    if len(parts) <= _HASH or parts[0] != _TOKENS or parts[_KIND] != "MP":
        return None
    type_name = _ros_type(parts[_TYPE])
    return Endpoint(parts[_TOPIC].replace("%", "/"), type_name, parts[_HASH]) if type_name is not None else None


class Mark(NamedTuple):
    """What is attached to a message. number: counts the publisher's messages, time_ns: when it sent this one."""

    number: int
    time_ns: int
    gid: bytes


def pack_mark(mark: Mark) -> bytes:
    return _ATTACHMENT.pack(mark.number, mark.time_ns, GID_BYTES, mark.gid)


def read_mark(attachment: bytes) -> Mark | None:
    """None where it is no attachment of `rmw_zenoh`."""
    if len(attachment) != _ATTACHMENT.size:
        return None
    number, time_ns, size, gid = _ATTACHMENT.unpack(attachment)
    return Mark(number, time_ns, gid) if size == GID_BYTES else None


def _mangled(name: str) -> str:
    return name.replace("/", "%")


def _dds_type(type_name: str) -> str:
    package, _, name = type_name.split("/")
    return f"{package}::msg::dds_::{name}_"


def _ros_type(name: str) -> str | None:
    """`sensor_msgs::msg::dds_::Image_` as `sensor_msgs/msg/Image`; None for what is no message."""
    parts = name.split("::")
    if len(parts) != 4 or parts[1:3] != ["msg", "dds_"] or not parts[3].endswith("_"):
        return None
    return f"{parts[0]}/msg/{parts[3].removesuffix('_')}"
