"""Whether frames miss as they do when another client reads the same stream, whose messages are dealt out in turn."""

from __future__ import annotations

import numpy as np

#: turns in a row that must look alike: by chance they do not
_TURNS = 8


def dealt_out(came: np.ndarray, clients: int) -> tuple[int, int] | None:
    """(k, n) where k of every n frames are missing, always the same ones in turn; None: they are not missing so.

    ``came`` (frames,) bool; n is at most ``clients``. Frames that are lost by chance, or many in a row, do not look so.
    """
    came = came[: np.max(np.flatnonzero(came), initial=-1) + 1]
    for n in range(2, 0 if came.all() else clients + 1):
        turns = came[: len(came) // (_TURNS * n) * _TURNS * n].reshape(-1, _TURNS, n)
        first = turns[:, 0]
        alike = (turns == turns[:, :1]).all(axis=(1, 2)) & first.any(axis=1) & ~first.all(axis=1)
        lossy = np.count_nonzero(~turns.all(axis=(1, 2)))
        # A client that comes, goes or is slow for a moment shifts the turns now and then.
        if lossy >= 3 and np.count_nonzero(alike) >= 0.8 * lossy:
            return round(float((~first[alike]).sum(axis=1).mean())), n
    return None
