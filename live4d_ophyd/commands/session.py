"""`live4d session`: IPython with the startup files of `profile_collection/`, from anywhere, also without a checkout.

The files are a part of the package (`live4d_ophyd/startup` is a link to them). What IPython keeps between sessions, its
history, is in the user's state folder: the package's own may not be written.
"""

from __future__ import annotations

from pathlib import Path

import click

import live4d_ophyd
from live4d_ophyd.folders import FOLDERS, make_private

#: what every session reads first
STARTUP = Path(live4d_ophyd.__file__).resolve().parent / "startup"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--startup",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of your own startup files; default: the folder `startup` here, if there is one.",
)
@click.option("-c", "code", metavar="CODE", help="Run CODE and end; the exit code is 1 if it fails.")
@click.option("--where", is_flag=True, help="Only print the folder of the startup files.")
@click.argument("ipython", nargs=-1, type=click.UNPROCESSED, metavar="[IPYTHON OPTIONS]")
def session(startup: Path | None, code: str | None, where: bool, ipython: tuple[str, ...]) -> None:
    """Start IPython with RE, live4d, plans and the catalog db.

    A simulated detector and microscope stand in until LIVE4D_DCU=http://HOST says where the detector is; LIVE4D_SCAN is
    the raster, LIVE4D_CATALOG the catalog's directory. Your own devices and plans go into files of a folder `startup`:
    all *.py in it are run together with the session's own, in the order of their names. 30-mine.py uses what the
    session's have made; 05-scan-generator.py comes before the devices are.

    \b
    live4d session
    LIVE4D_DCU=http://dcu LIVE4D_SCAN=256x256 live4d session --startup ~/microscope
    live4d session -c "RE(count([live4d]))"
    """
    if where:
        click.echo(STARTUP)
        return
    # Not at the top: every `live4d --help` would pay for the import of IPython.
    from IPython import start_ipython
    from traitlets.config import Config

    profile = FOLDERS.user_state_path / "ipython"
    make_private(profile)  # IPython would make it for others to look into, the history of commands with it
    config = Config()
    config.ProfileDir.location = str(profile)
    config.TerminalIPythonApp.display_banner = False  # the startup files say what to type first
    config.InteractiveShellApp.exec_files = [str(path) for path in startup_files(startup)]
    start_ipython(argv=[*(("-c", code) if code is not None else ()), *ipython], config=config)


def startup_files(own: Path | None = None) -> list[Path]:
    """What a session runs: the package's files and those of ``own``, or else of ``./startup``, in the order of names.

    Of two with the same name the package's is first.
    """
    own = (own or Path("startup")).resolve()
    folders = [STARTUP] if own == STARTUP.resolve() else [STARTUP, own]
    files = [path for folder in folders for path in folder.glob("*.py")]
    return sorted(files, key=lambda path: (path.name, path.parent != STARTUP))
