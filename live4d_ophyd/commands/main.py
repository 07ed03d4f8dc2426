"""`live4d`: the commands. One file each, or a group; this group finds them."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

import click

import live4d_ophyd
from live4d_ophyd.garbage import no_search

# Loaded when used: most commands need no Bluesky, whose import takes seconds.
_COMMANDS = {
    "demo": "live4d_ophyd.commands.demo:demo",
    "session": "live4d_ophyd.commands.session:session",
    "doctor": "live4d_ophyd.commands.doctor:doctor",
    "listen": "live4d_ophyd.commands.listen:listen",
    "reprocess": "live4d_ophyd.commands.reprocess:reprocess",
    "inspect": "live4d_ophyd.commands.inspect:inspect",
    "runs": "live4d_ophyd.commands.runs:runs",
    "show": "live4d_ophyd.commands.runs:show",
    "export": "live4d_ophyd.commands.runs:export",
    "share": "live4d_ophyd.commands.share:share",
    "view": "live4d_ophyd.commands.view:view",
    "delete": "live4d_ophyd.commands.runs:delete",
    "verify": "live4d_ophyd.commands.verify:verify",
    "restore": "live4d_ophyd.commands.restore:restore",
    "keys": "live4d_ophyd.commands.keys:keys",
    "serve": "live4d_ophyd.commands.serve:serve",
    "sim": "live4d_ophyd.commands.sim:sim",
    "replay": "live4d_ophyd.commands.sim:replay",
    "bench": "live4d_ophyd.commands.bench:bench",
}
#: of the engine, before NumPy is imported: BLAS would take all cores for a fit, and spin there, and frames need them
ENGINE_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class LazyGroup(click.Group):
    """Group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        if name == "serve":
            for variable, value in ENGINE_ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
        module, attribute = _COMMANDS[name].split(":")
        with no_search():
            return getattr(import_module(module), attribute)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(live4d_ophyd.__version__, prog_name="live4d")
def live4d() -> None:
    """Live 4D-STEM images from a DECTRIS stream.

    Try `live4d demo` first: a simulated scan through everything, without any hardware.
    """


def main() -> None:
    """Entry point of the console script."""
    try:
        code = live4d(standalone_mode=False)  # what ctx.exit was given, or what the command returned
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        sys.exit("interrupted")
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # what ends with the process is not searched for garbage first: a second, after Tiled
