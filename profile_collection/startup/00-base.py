"""The session itself: RE, db, bec, peaks, sd, bp, bps, bpp, np, plt, and Bluesky's magics.

Runs in IPython (``live4d session``, ``ipython --profile-dir=profile_collection``) and, unchanged, in the worker of
bluesky-queueserver, where there is no IPython and nobody to look at figures. Environment variables:

LIVE4D_CATALOG   directory of the catalog (default: where the profile "live4d" is, see open_catalog)
LIVE4D_PROFILE   name of the catalog: ``databroker.catalog[NAME]`` (default: live4d)
LIVE4D_PREVIEWS  "store": the catalog keeps growing images, too (default: only results)
LIVE4D_WINDOW    "0": no live window, figures instead; "1": say why where there can be none (default: a window, where
                 live4d-ophyd[qt] is installed and there is a display)
LIVE4D_PUBLISH   HOST:PORT of a 0MQ proxy that gets all documents, for `live4d view` elsewhere; "off": nobody does
                 (default: `live4d view` of this user on this machine)
LIVE4D_REDIS     HOST or HOST:PORT of a Redis that keeps RE.md over sessions (needs redis-json-dict)
"""

import gc

gc.disable()  # what the start makes stays: the search for garbage is a quarter of its time; 90-preview.py ends that

import importlib.util
import logging
import os
import re
import sys
import traceback

import bluesky.plan_stubs as bps  # noqa: F401
import bluesky.plans as bp  # noqa: F401
import bluesky.preprocessors as bpp  # noqa: F401
import matplotlib
import numpy as np  # noqa: F401
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData
from IPython import get_ipython

from live4d_ophyd import (  # noqa: F401
    Live4DBestEffortCallback,
    ScanProgressBar,
    calibrations,
    describe,
    image,
    images,
    montage,
    open_catalog,
    stitch,
)
from live4d_ophyd.live.attentive import AttentiveDuringTask
from live4d_ophyd.live.publish import publish
from live4d_ophyd.storage import catalog_directory, record
from live4d_ophyd.urls import shown
from live4d_ophyd.window.opening import is_installed, why_not


def _in_queueserver():
    # A worker has it imported; importing it here would cost every other session a second.
    return "bluesky_queueserver" in sys.modules and sys.modules["bluesky_queueserver"].is_re_worker_active()


def _can_show_windows():
    """Qt draws beside a running plan; other toolkits do not get along with the RunEngine's thread."""
    display = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not display or os.environ.get("MPLBACKEND", "").lower() == "agg":
        return False
    return any(importlib.util.find_spec(qt) for qt in ("PyQt6", "PySide6", "PyQt5", "PySide2"))


def _has_live_window():
    """Whether the live window shows the images, in place of matplotlib's figures."""
    wanted = os.environ.get("LIVE4D_WINDOW", "")
    if wanted == "0" or not (wanted or (_windows and is_installed())):
        return False
    reason = why_not() if _shell is not None else "there is no IPython here, and nobody to look at it"
    if not reason and not _windows:
        reason = "matplotlib shows no windows here: there is no display, no Qt, or MPLBACKEND says agg"
    if reason:
        print(f"There is no live window: {reason}")
    return not reason


def _metadata():
    """RE.md: what every run's start document holds. Scan ids go on from the catalog in any case."""
    address = os.environ.get("LIVE4D_REDIS")
    if not address:
        return {}
    from redis import Redis
    from redis_json_dict import RedisJSONDict

    place = re.fullmatch(r"([\w.-]+)(?::(\d+))?", address)
    if not place:
        raise ValueError(f"LIVE4D_REDIS is {shown(address)!r}; expected HOST or HOST:PORT")
    return RedisJSONDict(Redis(place[1], int(place[2] or 6379)), prefix="live4d-")


_shell = None if _in_queueserver() else get_ipython()
if _shell is not None:
    print(
        "starting: catalog, detector, engine (about 10 s; the first time some more, to compile)", flush=True
    )
_windows = _shell is not None and _can_show_windows()
if _windows:
    _shell.run_line_magic("matplotlib", "qt")
else:
    matplotlib.use("agg")

import matplotlib.pyplot as plt  # after the backend is chosen

_live_window = _has_live_window()

_profile = os.environ.get("LIVE4D_PROFILE") or "live4d"
db = open_catalog(name=_profile)
_pictures = catalog_directory(_profile) / "pictures"


def _unseen_figure(name):
    """A plot of numbers that nobody sees is not drawn at every point, only by plt.savefig."""
    figure = plt.figure(num=name)
    figure.canvas.draw_idle = lambda *args, **kwargs: None
    return figure


RE = RunEngine(_metadata(), during_task=AttentiveDuringTask())  # hears every Ctrl-C
bec = Live4DBestEffortCallback(
    image_directory=_pictures,
    windows=_windows and not _live_window,
    fig_factory=None if _windows else _unseen_figure,
)
bec.disable_baseline()  # the microscope is stored with every run; as a table it would be longer than the rest
if _in_queueserver():
    bec.disable_plots()
peaks = bec.peaks
RE.subscribe(bec)
record(RE, db, previews=os.environ.get("LIVE4D_PREVIEWS") == "store")
try:
    publish(RE)
except (OSError, ValueError) as _error:  # a session without viewers is a session
    print(f"`live4d view` cannot show this session: {_error}")

sd = SupplementalData()
RE.preprocessors.append(sd)
RE.waiting_hook = ScanProgressBar()


def _print_short(shell, kind, error, trace, tb_offset=None):
    """Of what a plan or a device raises the message helps; pages of traceback through Bluesky are for %tb."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace)]
    if not any(name.startswith(("bluesky.run_engine", "live4d_ophyd")) for name in modules):
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        return
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
    print(f"{kind.__name__}: {error}\n(%tb shows where it came from)")


if _shell is not None:
    _shell.set_custom_exc((Exception,), _print_short)
    from bluesky.magics import BlueskyMagics

    BlueskyMagics.pbar_manager = RE.waiting_hook
    _shell.register_magics(BlueskyMagics)
    # The exception of a failed plan reaches the prompt; logged as well it would be there twice, with a traceback.
    logging.getLogger("bluesky").addFilter(lambda record: record.getMessage() != "Run aborted")
