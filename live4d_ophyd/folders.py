"""Where this package keeps what is the user's: caches, data and state, each where the platform wants them.

On Linux below ``$XDG_CACHE_HOME``, ``$XDG_DATA_HOME`` and ``$XDG_STATE_HOME``, which are looked up at each use.
"""

from platformdirs import PlatformDirs

FOLDERS = PlatformDirs("live4d-ophyd", appauthor=False)
