"""`perception weights`: somebody's ImageNet weights as what a training starts from."""

from pathlib import Path

import click

from perception.core.errors import UsageError


@click.command("weights")
@click.argument("backbone", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", default="base", show_default=True, help="The size whose camera encoder takes them.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.safetensors",
    help="The checkpoint to write.",
)
def weights(*, backbone: Path, model: str, out: Path) -> None:
    """Start a network's camera encoder from BACKBONE: weights of a ResNet-50 as torchvision names them.

    BACKBONE is a .safetensors file or a pickle of torch (resnet50-*.pth), which is read without running any of its
    code. Everything else in the checkpoint is seeded; train it with `model: FILE.safetensors` in a training's CONFIG.
    """
    from perception.models.checkpoint import SUFFIX, TRAINED, save_checkpoint
    from perception.models.network import build_network
    from perception.models.presets import preset
    from perception.models.pretrained import read_backbone, start_from_backbone

    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out}: weights are safetensors; end the name in {SUFFIX}")
    network = build_network(preset(model))
    start_from_backbone(network, read_backbone(backbone), where=str(backbone))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, network, {TRAINED: "no", "backbone": backbone.name})
    click.echo(f"{out}: {model}, its camera encoder from {backbone.name}, the rest untrained")
