"""Imports Open3D, and says what to install where it cannot be."""

import ctypes
import importlib
import re
import sys
from typing import Any

from perception.core.errors import ConfigError

DEBIAN_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgomp.so.1": "libgomp1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libX11.so.6": "libx11-6",
}
"""What Open3D loads from the system, and the Debian package that has it."""

_MISSING = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


def load_open3d() -> Any:
    """The `open3d` module. Raises ConfigError, naming the system package to install, where it cannot be loaded.

    On Linux libusb comes from the `libusb-package` wheel, loaded first so that Open3D finds its symbols.
    """
    try:
        if sys.platform == "linux":
            path = importlib.import_module("libusb_package").get_library_path()
            if path is not None:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        raise ConfigError(explain(str(error))) from error


def explain(error: str) -> str:
    """What to tell the user about a failed import of Open3D."""
    missing = _MISSING.search(error)
    if missing is None:
        return f"Open3D cannot be imported: {error}; reinstall the package with its dependencies"
    library = missing.group(1)
    package = DEBIAN_PACKAGES.get(library)
    remedy = f"install it with: apt-get install {package}" if package else "install the package that has it"
    return f"Open3D cannot be imported because the system library {library} is missing; {remedy}"
