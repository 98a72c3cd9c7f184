"""The app: the table of commands, and ``main``, which turns errors into lines and exit codes."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from ..errors import PrunebenchError, SearchError
from ..runs.result import CRASHED, INTERRUPTED, OK, USAGE
from ..system.console import plain_warnings, print_line, print_note
from ..version import __version__
from . import baseline, cache
from .accept import accept
from .calibrate import calibrate
from .check import check
from .compare import compare
from .doctor import doctor
from .export import export
from .help import Command, Group
from .history import history
from .import_plan import import_plan
from .init import init
from .leaderboard import leaderboard
from .list import list_cases
from .notify import notify
from .power import power
from .prune import prune
from .run import run
from .show import show

#: Every command, in the order and under the headings of ``prunebench --help``.
COMMANDS: dict[str, dict[str, Any]] = {
    "Measure": {
        "run": run,
        "list": list_cases,
        "check": check,
        "prune": prune,
        "import-plan": import_plan,
        "calibrate": calibrate,
    },
    "Baselines": {"accept": accept, "baseline": baseline.app},
    "Results": {
        "show": show,
        "compare": compare,
        "history": history,
        "power": power,
        "cache": cache.app,
    },
    "Publish": {"leaderboard": leaderboard, "export": export, "notify": notify},
    "Project": {"init": init, "doctor": doctor},
}

app = typer.Typer(
    cls=Group,
    help="Benchmark and regression harness for structured LLM pruning.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and plain usage errors: they are read by scripts and logs
    pretty_exceptions_enable=False,
)
for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=heading)
        else:
            app.command(name=name, cls=Command, rich_help_panel=heading)(command)


def _version(value: bool) -> None:
    if value:
        print_line(f"prunebench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> NoReturn:
    """The console entry point; raises SystemExit.

    Bad input ends as one plain line per problem on standard error and exit code 2.
    """
    plain_warnings()
    try:
        app(standalone_mode=True)
    except SystemExit as stop:
        # click ends an interrupt with 1, which here means a regression.
        if isinstance(stop.__context__, typer.Abort):
            sys.exit(INTERRUPTED)
        raise
    except PrunebenchError as error:
        print_note(str(error))
        sys.exit(CRASHED if isinstance(error, SearchError) else USAGE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has ended; Python would complain again at exit
        sys.exit(OK)
    except OSError as error:  # a name that is too long, a folder without rights, a full disk
        print_note(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(USAGE)
    sys.exit(OK)
