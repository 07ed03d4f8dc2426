"""The detector control unit's REST interface."""

from live4d_ophyd.simplon.client import Simplon
from live4d_ophyd.simplon.parameter import Parameter
from live4d_ophyd.simplon.rest import Rest, SimplonError, UnknownKey

__all__ = ["Parameter", "Rest", "Simplon", "SimplonError", "UnknownKey"]
