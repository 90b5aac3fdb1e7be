"""How much memory the service's processes and the machine's devices use."""

import logging
from dataclasses import dataclass
from functools import cache

import psutil
import pynvml

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """name: as in `cuda:0`, by the order of the driver."""

    name: str
    used_bytes: int
    total_bytes: int


def workers_resident_bytes() -> int:
    """Resident memory of all processes below this one; pages that they share count in each."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    return total


def devices() -> list[DeviceMemory]:
    """NVIDIA's devices by their driver, without a context on them; none where there is no driver."""
    if not _has_driver():
        return []
    found = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
            found.append(DeviceMemory(name=f"cuda:{index}", used_bytes=int(memory.used), total_bytes=int(memory.total)))
    except pynvml.NVMLError as error:
        logger.warning("the driver does not tell the devices' memory: %s", error)
    return found


@cache
def _has_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True
