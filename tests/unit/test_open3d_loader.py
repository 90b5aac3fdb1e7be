"""Open3D loads with the bundled libusb; what is missing is named with the package that has it."""

import importlib

import pytest

from perception.core.errors import PerceptionError
from perception.core.open3d_loader import explain, load_open3d


def test_open3d_loads() -> None:
    assert hasattr(load_open3d(), "pipelines")


@pytest.mark.parametrize(
    ("library", "package"),
    [("libGL.so.1", "libgl1"), ("libEGL.so.1", "libegl1"), ("libgomp.so.1", "libgomp1")],
)
def test_a_missing_system_library_is_named_with_its_package(library: str, package: str) -> None:
    message = explain(f"{library}: cannot open shared object file: No such file or directory")
    assert library in message
    assert f"apt-get install {package}" in message


def test_an_unknown_failure_is_passed_on() -> None:
    assert "no module of that name" in explain("no module of that name")
    assert "libfancy.so.3" in explain("libfancy.so.3: cannot open shared object file: No such file or directory")


def test_a_failed_import_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise ImportError("libEGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(PerceptionError, match="libegl1"):
        load_open3d()
