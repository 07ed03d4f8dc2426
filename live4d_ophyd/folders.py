"""Where this package keeps what is the user's: caches, data and state, each where the platform wants them.

On Linux below ``$XDG_CACHE_HOME``, ``$XDG_DATA_HOME`` and ``$XDG_STATE_HOME``, which are looked up at each use.
"""

from pathlib import Path

from platformdirs import PlatformDirs

FOLDERS = PlatformDirs("live4d-ophyd", appauthor=False)


def make_private(folder: Path) -> None:
    """Make the folder, and those above it that are missing, for nobody else to look into (0700).

    One that is there stays as its user wants it. Raises FileExistsError where a file has its name.
    """
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
