"""PNG files of images, drawn beside whoever has them.

Comes in: the images of one device, with a title, as often as there are new ones. Go out: files. The thread
``live4d-pictures`` has them drawn by a process, as drawing is 0.2 s of Python; what is replaced before its turn is
never drawn. Nobody waits for it but `Pictures.wait`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from live4d_ophyd.beside import of_session
from live4d_ophyd.live.panel import ImageFigure, Panel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """What a file shows: the panels of a device by data key, and a title; ``alarming`` makes that one red."""

    name: str
    panels: Mapping[str, Panel]
    title: str
    alarming: bool = False


class Pictures:
    """Draws pictures into files, the newest of each file.

    Parameters
    ----------
    percentiles : of the finite values, that become black and white
    """

    def __init__(self, percentiles: tuple[float, float]) -> None:
        self._percentiles = percentiles
        self._lock = threading.Lock()
        self._waiting: dict[Path, Picture] = {}
        self._newest: Future | None = None
        self._draw = drawer()
        # The interpreter waits for it when it ends: the last picture of a session is drawn, too.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live4d-pictures")

    def put(self, path: Path, picture: Picture) -> None:
        """Have ``picture`` drawn to ``path`` soon, in place of one that waits there. Returns at once."""
        with self._lock:
            waits = path in self._waiting
            self._waiting[path] = picture
            if not waits:
                self._newest = self._thread.submit(self._draw_waiting, path)

    def wait(self, timeout: float) -> bool:
        """Wait until all that was put is in its file, ``timeout`` s at most; whether it is."""
        newest = self._newest
        if newest is None:
            return True
        try:
            newest.result(timeout)  # of one thread: those before are done, too
        except TimeoutError:
            return False
        return True

    def _draw_waiting(self, path: Path) -> None:
        with self._lock:
            picture = self._waiting.pop(path)
        try:
            self._draw(path, picture, self._percentiles)
        except Exception as error:  # a full disk must not cost the pictures after it
            log.error("the picture %s could not be made: %s", path, error)


def drawer() -> Callable[[Path, Picture, tuple[float, float]], None]:
    """What draws, for all of this session: a process."""
    return of_session(f"{__name__}:service").call


def service() -> Callable[[Path, Picture, tuple[float, float]], None]:
    """Draws a picture into a file; has a figure for each device. Runs in the process."""
    figures: dict[str, ImageFigure] = {}

    def draw(path: Path, picture: Picture, percentiles: tuple[float, float]) -> None:
        figure = figures.get(picture.name)
        if figure is None or figure.keys != tuple(picture.panels) or figure.percentiles != percentiles:
            figure = figures[picture.name] = ImageFigure(
                picture.name, tuple(picture.panels), window=False, percentiles=percentiles
            )
        figure.show(picture.panels)
        figure.redraw(picture.title, picture.alarming)
        figure.save(path)

    return draw
