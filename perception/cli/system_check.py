"""Checks the machine before anything is installed; runs on the bare standard library (`python3 system_check.py`).

Open3D and SUMO want shared libraries that a slim machine lacks. As root with apt-get they are installed here; otherwise
the one line to run is printed.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys

SUPPORTED = ((3, 11), (3, 13))
"""First and last Python with wheels of every pinned package."""

LIBRARIES = {
    "libGL.so.1": ("libgl1", "Open3D and SUMO"),
    "libEGL.so.1": ("libegl1", "Open3D"),
    "libgomp.so.1": ("libgomp1", "Open3D"),
    "libX11.so.6": ("libx11-6", "Open3D and SUMO"),
    "libXext.so.6": ("libxext6", "SUMO"),
    "libXrender.so.1": ("libxrender1", "SUMO"),
    "libatomic.so.1": ("libatomic1", "SUMO"),
}
"""Shared library: its Debian package and what needs it."""


def missing_libraries() -> list[str]:
    """Libraries of `LIBRARIES` that cannot be loaded; none outside Linux, where the wheels bring their own."""
    if platform.system() != "Linux":
        return []
    return [name for name in LIBRARIES if not _loads(name)]


def remedy(libraries: list[str]) -> str:
    """The command that installs `libraries` on Debian and Ubuntu."""
    return "apt-get install -y --no-install-recommends " + " ".join(LIBRARIES[name][0] for name in libraries)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _check_python() -> str | None:
    version = sys.version_info[:2]
    if not SUPPORTED[0] <= version <= SUPPORTED[1]:
        first, last = (".".join(map(str, end)) for end in SUPPORTED)
        return (
            f"Python {version[0]}.{version[1]} is not supported; use {first} to {last} (make PYTHON=python{last} ...)"
        )
    if importlib.util.find_spec("ensurepip") is None:
        return "this Python cannot make virtual environments; run: apt-get install -y python3-venv"
    return None


def main() -> int:
    """Exit code 0 if everything is there or could be installed."""
    if (problem := _check_python()) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    missing = missing_libraries()
    if missing and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing system libraries: {remedy(missing)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment, check=False)
        subprocess.run(remedy(missing).split(), env=environment, check=False)
        missing = missing_libraries()
    if missing:
        for name in missing:
            print(f"error: {LIBRARIES[name][1]} needs {name}, which is not on this machine", file=sys.stderr)
        print(f"run this once, then make again:\n  sudo {remedy(missing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
