"""`perception`: finds the command, runs it, and turns errors into one line and an exit code."""

import importlib
import os
import signal
import sys

import click

from perception.core.errors import ConfigError, PerceptionError, UsageError

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_LOSSES = 0, 1, 2, 3

COMMANDS = {
    "replay": "perception.cli.replay:replay",
    "supervise": "perception.cli.supervise:supervise",
    "sim": "perception.cli.sim_loop:sim",
    "serve": "perception.cli.serve:serve",
    "ctl": "perception.cli.ctl:ctl",
    "feed": "perception.cli.feed:feed",
    "consume": "perception.cli.consume:consume",
    "ros2": "perception.cli.ros2:ros2",
    "view": "perception.cli.view:view",
    "render": "perception.cli.render:render",
    "diff": "perception.cli.diff:diff",
    "convert": "perception.cli.convert:convert",
    "inspect": "perception.cli.inspect_drive:inspect_drive",
    "train": "perception.cli.train:train",
    "export": "perception.cli.export:export_command",
    "weights": "perception.cli.weights:weights",
    "eval": "perception.cli.eval:eval_command",
    "fleet": "perception.cli.fleet:fleet",
    "doctor": "perception.cli.doctor:doctor",
    "bench": "perception.cli.bench:bench",
}


class LazyGroup(click.Group):
    """Imports a command when it is called or its help is shown, so that `perception --help` does not load torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="perception")
def cli() -> None:
    """Streaming sensor fusion: camera, lidar and radar in; 3D detections, tracks and path hints out.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 finished with losses that were reported.
    """


def main() -> None:
    """Entry point of the `perception` script. A SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Threads of torch that wait for each other spin; where other processes want the cores too, shorter is much faster.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (UsageError, ConfigError) as error:
        code = _report(error, EXIT_USAGE)
    except PerceptionError as error:
        code = _report(error, EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        code = _report(None, EXIT_FAILED)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


def _report(error: PerceptionError | None, code: int) -> int:
    click.echo(f"error: {error}" if error is not None else "interrupted", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)
    return code
