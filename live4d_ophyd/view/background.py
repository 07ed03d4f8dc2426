"""What takes long, beside the server's thread: reading the catalog, and images of recorded frames.

In: work, from any page. Out: its result or its error, in the page's thread. Threads: ``live4d-view-catalog`` and
``live4d-view-frames``, each of which does one thing after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bokeh.document import Document


class Gone(Exception):
    """The page that wanted it is closed, or the viewer ends."""


class Background:
    """The two threads, which begin with the first work; they end with `close`."""

    def __init__(self) -> None:
        self._catalog = ThreadPoolExecutor(1, thread_name_prefix="live4d-view-catalog")
        self._frames = ThreadPoolExecutor(1, thread_name_prefix="live4d-view-frames")
        #: work on frames looks at it, and ends
        self.is_closed = False

    def read(
        self, document: Document, work: Callable[[], Any], done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        """Do ``work``, which asks the catalog or reads a pattern; call ``done`` or ``failed`` in the page's thread."""
        _submit(self._catalog, document, work, done, failed)

    def sum(
        self, document: Document, work: Callable[[], Any], done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        """Do ``work``, which reads all frames of a file; as `read`."""
        _submit(self._frames, document, work, done, failed)

    def close(self) -> None:
        """End the threads; what waits is not done any more."""
        self.is_closed = True
        for pool in (self._catalog, self._frames):
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(
    pool: ThreadPoolExecutor, document: Document, work: Callable[[], Any], done: Callable[[Any], None],
    failed: Callable[[Exception], None],
) -> None:  # fmt: skip
    def do() -> None:
        try:
            then = partial(done, work())
        except Gone:
            return
        except Exception as error:  # of a catalog, a file or a detector: the viewer is told each
            then = partial(failed, error)
        tell(document, then)

    pool.submit(do)


def tell(document: Document, what: Callable[[], Any]) -> None:
    """Have ``what`` called in the page's thread: all that other threads may do with a document."""
    document.add_next_tick_callback(what)
