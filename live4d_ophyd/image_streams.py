"""Which streams and data keys hold images over the scan: what preview, pictures, plots and storage agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PREVIEW_SUFFIX = "_live"
#: of external data: files of recorded frames
RAW_MIMETYPE = "application/x-hdf5;type=live4d-frames"


def preview_stream(device_name: str) -> str:
    """Name of the stream that a device's previews go to: ``live4d_live`` for ``live4d``.

    One stream a device, since a stream has one fixed set of devices, and which of several devices are
    still exposing differs from Event to Event.
    """
    return device_name + PREVIEW_SUFFIX


def previewed_device(descriptor: Mapping[str, Any]) -> str | None:
    """Name of the device whose previews a stream holds; None for any other stream, whatever it is called.

    A preview says how much of the raster it has seen, under the key ``<device>_live_fraction``; no result does.
    """
    name = descriptor.get("name", "primary")
    if name.endswith(PREVIEW_SUFFIX) and f"{name}_fraction" in descriptor["data_keys"]:
        return name.removesuffix(PREVIEW_SUFFIX)
    return None


def image_keys(data_keys: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys of the inline arrays over (scan_y, scan_x), in the order of the data keys."""
    return [
        key
        for key, value in data_keys.items()
        if value["dtype"] == "array"
        and not value.get("external")
        and list(value.get("dims") or ()) == ["scan_y", "scan_x"]
    ]


def raster_time(event: Mapping[str, Any], keys: Iterable[str]) -> float:
    """When the raster of an Event was over, s since 1970: the timestamp of the first of these images that has one.

    The Event's own ``time`` is that of the document, which Bluesky makes of the rasters of a movie when it collects
    them, several at once. It serves where no image has a timestamp.
    """
    stamps = event.get("timestamps", {})
    return float(next((stamps[key] for key in keys if key in stamps), event["time"]))


def run_stem(scan_id: int, uid: str) -> str:
    """How names of files with a run's images begin: ``00017_ca3108a4``."""
    return f"{scan_id:05d}_{uid[:8]}"
