"""`perception export`: a model for other runtimes."""

import json
from pathlib import Path

import click

from perception.cli.options import output_options
from perception.core.errors import UsageError


@click.command("export")
@click.argument("model", default="tiny")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where the files go.")
@click.option("--format", "form", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option(
    "--for-service",
    is_flag=True,
    help="Write the encoders where `model.backend` onnxruntime, openvino and auto look for them, in place of --out.",
)
@click.option("--check/--no-check", default=True, help="Run the files and compare [default], or trust them.")
@output_options
def export_command(
    *, model: str, out: Path | None, form: str, for_service: bool, check: bool, as_json: bool, quiet: bool
) -> None:
    """Write MODEL (a name, or a .safetensors file) as one file for each stage: camera, lidar, radar and fusion.

    ONNX files, or archives of torch.export (.pt2). Each carries the model's configuration and hash; metadata.json
    repeats them. Needs `pip install 'perception[export]'` for ONNX.
    """
    from perception.models.backends.foreign import ENCODERS, export_folder
    from perception.models.blocks import speed_up
    from perception.models.checkpoint import load_network
    from perception.models.export import STAGES, export
    from perception.models.export_check import check_export
    from perception.models.inference import InferenceModel

    if (out is None) == (not for_service):
        raise UsageError("export needs --out DIR, or --for-service, and not both")
    if for_service and form != "onnx":
        raise UsageError("--for-service writes ONNX; leave --format away")
    network, trained = load_network(model)
    info = InferenceModel(network, trained=trained).info
    folder = export_folder(info.hash) if out is None else out
    stages = ENCODERS if for_service else STAGES
    network.requires_grad_(False)
    speed_up(network)
    files = export(network, info, folder, "onnx" if form == "onnx" else "torch", stages)
    differences = check_export(network, folder, "onnx" if form == "onnx" else "torch", stages) if check else {}
    if as_json:
        click.echo(json.dumps({"files": [str(file) for file in files], "differences": differences, "hash": info.hash}))
    elif not quiet:
        for file in files:
            differs = differences.get(file.stem)
            click.echo(f"{file}" + (f"  differs by {differs:.1e} at most" if differs is not None else ""))
