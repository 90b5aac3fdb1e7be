"""The names that users import, and the layers that keep the package in shape."""

import subprocess
import sys

import pytest

import perception
from tests.conftest import PROJECT_ROOT


def test_every_public_name_can_be_imported() -> None:
    assert sorted(perception._HOME) == perception.__all__
    for name in perception.__all__:
        assert getattr(perception, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        perception.nonsense  # noqa: B018


def test_a_consumer_loads_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from perception import subscribe, open_queue; "
        "print(sorted({'torch', 'ray', 'cv2', 'open3d', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_is_quick_because_it_loads_no_torch() -> None:
    program = "import sys; import perception.cli.main; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "perception", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "replay" in found.stdout


def test_imports_point_down() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    found = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:]
