"""Live images in every plan, and what to type first."""
# ruff: noqa: F821  names of the files before

from live4d_ophyd import live_preview
from live4d_ophyd.storage import backup_directory

RE.preprocessors.append(live_preview([live4d]))

if _shell is not None:
    _backups = list(backup_directory(db).glob("*.jsonl"))
    if _backups:
        print(
            f"\n{len(_backups)} run(s) are not whole in the catalog: `live4d restore --list` in a shell says which"
        )
    print(
        f"""
live4d: {live4d.grid().rows} x {live4d.grid().cols} positions from {
            "a simulated detector and microscope" if simulator else live4d.endpoint.get()
        }
runs   {catalog_directory(_profile)}
images {"in windows" if _windows else _pictures}

  RE(count([live4d]))                          one raster
  RE(calibrate_bright_field(live4d))           put the detectors on the bright-field disk
  RE(autofocus(live4d, defocus, -100, 100))    best focus
  db[-1].primary.read(["live4d_vbf"])          the last run's images
  %wa                                          where everything is; any Bluesky plan works: bp, bps, bpp
"""
    )
