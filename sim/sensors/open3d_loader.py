"""Imports Open3D where the system lacks libusb, which its Linux wheels are linked against."""

import ctypes
import functools
import importlib
import importlib.util
from typing import Any

from perception.core.errors import ConfigError


@functools.cache
def load_open3d() -> Any:
    """The `open3d` module. Raises ConfigError with the remedy where it cannot be imported.

    The `libusb_package` wheel carries the library; loading it with global symbols first satisfies the linker.
    """
    if importlib.util.find_spec("libusb_package") is not None:
        path = importlib.import_module("libusb_package").get_library_path()
        if path is not None:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"Open3D cannot be imported ({error}); on Debian: apt-get install libegl1 libgl1 libgomp1, "
            "or install embreex and choose the ray caster 'embreex'"
        ) from error
