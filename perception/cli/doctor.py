"""`perception doctor`: what is installed, what this machine has, what is missing and how to get it."""

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from perception.cli.main import EXIT_DONE, EXIT_FAILED
from perception.cli.system_check import LIBRARIES, missing_libraries, remedy
from perception.config.paths import config_dir
from perception.core.errors import PerceptionError

PACKAGES = ("torch", "open3d-cpu", "opencv-python-headless", "numpy", "ray", "eclipse-zenoh", "protobuf", "libsumo")
BROKERS = ("nats-server", "redis-server")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. is_ok: None where the matter is optional and absent."""

    topic: str
    is_ok: bool | None
    detail: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Show what is installed, what this machine has, and what is missing with how to get it."""
    findings = [_python(), *_packages(), _libraries(), _open3d(), _configs(), _devices(), _memory(), *_brokers()]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {True: click.style("ok     ", fg="green"), False: click.style("missing", fg="red"), None: "-      "}
        for finding in findings:
            click.echo(f"{marks[finding.is_ok]} {finding.topic}: {finding.detail}")
    ctx.exit(EXIT_FAILED if any(finding.is_ok is False for finding in findings) else EXIT_DONE)


def _python() -> Finding:
    return Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        try:
            findings.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, False, f"not installed; run: pip install {name}"))
    return findings


def _libraries() -> Finding:
    missing = missing_libraries()
    if missing:
        return Finding("system libraries", False, f"{', '.join(missing)}; run: sudo {remedy(missing)}")
    return Finding("system libraries", True, ", ".join(LIBRARIES))


def _open3d() -> Finding:
    from perception.core.open3d_loader import load_open3d

    try:
        return Finding("open3d loads", True, str(load_open3d().__version__))
    except PerceptionError as error:
        return Finding("open3d loads", False, str(error))


def _configs() -> Finding:
    try:
        return Finding("configuration files", True, str(config_dir()))
    except PerceptionError as error:
        return Finding("configuration files", False, str(error))


def _devices() -> Finding:
    import torch

    cores = os.cpu_count() or 1
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not names:
        return Finding("devices", None, f"no GPU that torch can use; the service runs on {cores} CPU cores")
    return Finding("devices", True, f"{cores} CPU cores; {', '.join(names)}")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").is_dir() else 0.0
    return Finding("memory", True, f"{total:.1f} GiB in all, {shared:.1f} GiB free for shared memory")


def _brokers() -> list[Finding]:
    findings = []
    for name in BROKERS:
        path = shutil.which(name)
        findings.append(
            Finding(name, True if path else None, path or "not installed; only its tests need it (Debian has it)")
        )
    return findings
