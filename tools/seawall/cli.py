"""The command line: finds the command that is asked for, and ends every run in one line and an exit code."""

import contextlib
import importlib
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from seawall import __version__, interrupt
from seawall.errors import ExitCode, SeawallError, TreeError

COMMANDS = (
    "add",
    "bundle",
    "diff",
    "doctor",
    "export",
    "inspect",
    "lists",
    "lock",
    "ls",
    "prepare",
    "prune",
    "publish",
    "pull",
    "purge",
    "push",
    "releases",
    "rm",
    "rollback",
    "scrub",
    "stage",
    "sync",
    "tag",
    "unbundle",
    "verify",
)
"""Every command, sorted; ``seawall.commands.<name>.command`` is it."""


class _Commands(click.Group):
    """Reads the module of a command when it is asked for: each run is one, and waits for no other's libraries."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's shape
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's shape
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"seawall.commands.{cmd_name}").command
        return found if isinstance(found, click.Command) else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="seawall")
def cli() -> None:
    """Serve container images out of a tree of files, with no registry on the read path.

    Images are declared in an images file, pinned in a lock, and synced into a tree, whose v2/ any web server
    can serve.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error ends here, as one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    try:
        cli.main(arguments, prog_name="seawall", standalone_mode=False)
    except SeawallError as error:
        _die(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _die("interrupted; run again to go on", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.exit(ExitCode.OK)
    except OSError as error:
        _die(
            str(TreeError(str(error.filename or "system"), error.strerror or str(error), "see the system's log")),
            ExitCode.TREE,
        )
    sys.exit(ExitCode.OK)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    interrupt.ask()
    raise KeyboardInterrupt


def _die(line: str, code: ExitCode) -> NoReturn:
    click.echo(f"seawall: {line}", err=True)
    sys.exit(code)
