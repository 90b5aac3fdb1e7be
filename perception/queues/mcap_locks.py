"""Who is at an MCAP file: locks on bytes far behind its end, which the kernel lets go when their owner dies.

They belong to the open file (Linux: "open file description locks", fcntl(2)), not to the process, so that a producer
and consumers in one process see each other too.
"""

import fcntl
import struct

from perception.core.errors import QueueError

PRODUCER_BYTE = 2**62
CONSUMER_BYTE = 2**62 + 1
_FLOCK = struct.Struct("hhqqi0q")
"""`struct flock` with 64-bit offsets: type, whence, start, length, process."""


def hold(descriptor: int, byte: int, *, alone: bool) -> bool:
    """Lock one byte until the file is closed. False where somebody else holds it. Raises QueueError without locks."""
    kind = fcntl.F_WRLCK if alone else fcntl.F_RDLCK
    try:
        fcntl.fcntl(descriptor, _command("F_OFD_SETLK"), _FLOCK.pack(kind, 0, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise QueueError(f"its file system cannot lock files ({error.strerror}); use a local one") from None
    return True


def is_held(descriptor: int, byte: int) -> bool:
    """Whether somebody else holds this byte. Raises QueueError without locks."""
    question = _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0)
    try:
        answer = fcntl.fcntl(descriptor, _command("F_OFD_GETLK"), question)
    except OSError as error:
        raise QueueError(f"its file system cannot lock files ({error.strerror}); use a local one") from None
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _command(name: str) -> int:
    number = getattr(fcntl, name, None)
    if number is None:
        raise QueueError("this system has no locks of open files; use zenoh:, nats: or redis: here")
    return int(number)
