"""Where the shipped configuration files are: beside the sources in a checkout, inside the package in a wheel."""

from pathlib import Path

from perception.core.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent


def config_dir() -> Path:
    """Folder of the shipped YAML files. Raises ConfigError where the installation lacks it."""
    for folder in (_PACKAGE / "_configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no configuration files at {_PACKAGE / '_configs'}; the package is not completely installed")


def find_config(kind: str, name_or_path: str) -> Path:
    """The file of a shipped configuration (`kind` is its folder) or of a path.

    Raises ConfigError that lists the shipped names where neither exists.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(f"no configuration file {path}")
    shipped = config_dir() / kind / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(file.stem for file in (config_dir() / kind).glob("*.yaml"))) or "none"
    raise ConfigError(
        f"unknown {kind} configuration {name_or_path!r}; shipped: {known}; or give a path to a .yaml file"
    )
