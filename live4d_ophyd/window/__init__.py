"""The live window of a session: images as they come, beside the pattern with the virtual detectors on it.

It is drawn with pyqtgraph (extra ``qt``), in the main thread. What is asked of it is `live_window`; Qt is imported
then.
"""

from live4d_ophyd.window.opening import live_window

__all__ = ["live_window"]
