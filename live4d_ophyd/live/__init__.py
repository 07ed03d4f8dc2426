"""What a session shows while a plan runs: images, previews in unmodified plans, a progress bar."""

from live4d_ophyd.image_streams import preview_stream
from live4d_ophyd.live.best_effort import Live4DBestEffortCallback
from live4d_ophyd.live.preview import live_preview
from live4d_ophyd.live.progress import ScanProgressBar

__all__ = ["Live4DBestEffortCallback", "ScanProgressBar", "live_preview", "preview_stream"]
