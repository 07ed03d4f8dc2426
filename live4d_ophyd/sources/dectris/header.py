"""What a start message says, as the engine takes it from any source."""

from __future__ import annotations

from live4d_ophyd.sources.dectris.messages import StartMessage
from live4d_ophyd.sources.source import SeriesHeader, SeriesKey


def header_of(start: StartMessage, key: SeriesKey, channel: str) -> SeriesHeader:
    """``channel``: whose frames are taken."""
    named = (start.detector_description, start.detector_serial_number)
    corrected = start.countrate_correction_enabled and not start.saturation_value
    return SeriesHeader(
        key=key,
        channel=channel,
        rows=start.image_size_y,
        cols=start.image_size_x,
        dtype=start.image_dtype,
        frames=start.number_of_images,
        pixel_mask=(start.pixel_mask or {}).get(channel),
        flatfield=(start.flatfield or {}).get(channel),
        brought_masks=bool(start.pixel_mask),
        masked=start.pixel_mask_enabled,
        saturation=start.saturation_value,
        count_table=start.countrate_correction_lookup_table if corrected else None,
        unique_id=start.series_unique_id or "",
        detector=" ".join(text for text in named if text),
        energy=start.incident_energy,
        threshold=(start.threshold_energy or {}).get(channel),
        count_time=start.count_time,
        frame_time=start.frame_time,
        note=start.user_data,
    )
