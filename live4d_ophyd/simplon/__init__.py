"""The detector control unit's REST interface."""

from live4d_ophyd.simplon.client import Simplon, SimplonError

__all__ = ["Simplon", "SimplonError"]
