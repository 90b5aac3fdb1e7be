"""Writes results as a ROS 2 bag: a folder with an MCAP file and `metadata.yaml`, as `ros2 bag record` leaves it."""

from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from perception.core.errors import DriveError, UsageError
from perception.core.results import PerceptionResult
from perception.recorders.ros_messages import RosMessage, ros_messages, typestore


class RosBag:
    """A new bag at `path`. Log times are `reference_ns`, so that it plays beside a bag of the drive's sensors.

    Raises UsageError where `path` exists or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: dict[str, Connection] = {}
        try:
            # Metadata as Iron writes it; later releases read it too.
            self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise UsageError(f"no bag can be written to {path}: {error}; name a folder that does not exist") from None

    def write(self, result: PerceptionResult) -> None:
        """Raises DriveError where the capture clock does not fit ROS, or the disk takes no more."""
        if result.reference_ns < 0:
            raise DriveError(
                f"{self._path}: capture time {result.reference_ns} ns is before 1970; a bag cannot hold it"
            )
        for message in ros_messages(result):
            try:
                self._writer.write(self._connection(message), result.reference_ns, message.cdr)
            except OSError as error:
                raise DriveError(f"{self._path}: cannot be written: {error}") from error

    def close(self) -> None:
        """Write the index, without which ROS tools do not open the bag."""
        self._writer.close()

    def _connection(self, message: RosMessage) -> Connection:
        if message.topic not in self._connections:
            self._connections[message.topic] = self._writer.add_connection(
                message.topic, message.type_name, typestore=typestore()
            )
        return self._connections[message.topic]
