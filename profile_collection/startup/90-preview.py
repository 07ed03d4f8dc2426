"""Live images in every plan, and what to type first."""
# ruff: noqa: F821  names of the files before

import gc

from live4d_ophyd import live_preview, live_window
from live4d_ophyd.storage import backup_directory

if live4d is not None:
    RE.preprocessors.append(live_preview([live4d]))
window = live_window(live4d, RE, directory=_pictures) if live4d is not None and _live_window else None


def tips():
    """Print where things are and what to type first."""
    if live4d is not None:
        source = "a simulated detector and microscope" if simulator else live4d.endpoint.get()
        print(f"\nlive4d: {live4d.grid().rows} x {live4d.grid().cols} positions from {source}")
    where = "in the live window, and " if window else "in windows, and " if _windows else ""
    print(f"runs   {catalog_directory(_profile)}\nimages {where}{_pictures}\n")
    if live4d is None:
        print("  there is no live4d: the reason stands above; db, plans and help work\n")
        return
    for line, what in (
        ("RE(count([live4d]))", "one raster"),
        ("RE(calibrate_bright_field(live4d))", "put the detectors on the bright-field disk"),
        ("RE(autofocus(live4d, defocus, -100, 100))", "best focus"),
        ('db[-1].primary.read(["live4d_vbf"])', "the last run's images"),
        ("live4d.summary()", "its settings and what the newest image brought"),
        *([("live_window(live4d, RE)", "the live window, also after it was closed")] if window else []),
        ("%wa", "where everything is; any Bluesky plan works: bp, bps, bpp"),
        ("Ctrl-C twice", "pauses a raster now; RE.resume() takes it again, RE.abort() ends the plan"),
        ("count?", "what a plan takes; tips() prints this again"),
    ):
        print(f"  {line:43} {what}")
    print()


if _shell is not None:
    _backups = list(backup_directory(db).glob("*.jsonl"))
    if _backups:
        print(
            f"\n{len(_backups)} run(s) are not whole in the catalog: `live4d restore --list` in a shell says which"
        )
    tips()

# What was imported stays: looking through it for garbage would hold the RunEngine up for 0.4 s, again and again.
gc.collect()
gc.freeze()
gc.enable()
