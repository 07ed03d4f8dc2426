"""Frames of an HDF5 file back onto the wire, as messages of the stream v2.

In: a file whose frames lie in it one a chunk. Out: start, images in scan order, end; the frames' bytes as they are.
Messages are made when they are sent: the file need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cbor2
import numpy as np

from live4d_ophyd.frames.codecs import name_of
from live4d_ophyd.frames.encoded_array import COMPRESSION_TAG, ROW_MAJOR_TAG, array_tag
from live4d_ophyd.sim.encode import Header, ImageTemplate, Series, end_message, start_message
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames, Part, number_in, text_in


class FileReplay:
    """Iterated, it gives the messages of a series and what each is. Raises ValueError, FileNotFoundError."""

    def __init__(self, path: Path) -> None:
        self._frames = Hdf5Frames(str(path))
        if any(part.content is None for part in self._frames.parts):
            with closing(self._frames):
                raise ValueError(
                    f"the frames of {path} are not one a chunk, compressed as a detector sends them: they cannot be "
                    "replayed as they are"
                )

    def close(self) -> None:
        self._frames.close()

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        said = self._frames.said()
        channel = text_in(said.get("channel")) or "threshold_1"
        header = self._header(said, channel)
        series = Series(1)
        yield start_message(series, header, "all"), "start"
        template = ImageTemplate(series, header.frame_time, header.count_time)
        for part in self._frames.parts:
            yield from self._images(part, template, channel)
        yield end_message(series), "end"

    def _images(self, part: Part, template: ImageTemplate, channel: str) -> Iterator[tuple[bytes, str]]:
        assert part.content is not None
        assert part.at is not None
        assert part.nbytes is not None
        assert part.codec is not None
        tag = array_tag(part.dtype.newbyteorder("<"))
        for n in np.flatnonzero(part.at >= 0).tolist():
            data = part.content[part.at[n] : part.at[n] + part.nbytes[n]].tobytes()
            name = name_of(int(part.codec[n]))
            packed: Any = cbor2.CBORTag(COMPRESSION_TAG, [name, part.elem_size, data]) if name else data
            array = cbor2.CBORTag(ROW_MAJOR_TAG, [list(part.shape), cbor2.CBORTag(tag, packed)])
            yield template.message(part.first + n, cbor2.dumps({channel: array})), "image"

    def _header(self, said: dict[str, Any], channel: str) -> Header:
        frames = self._frames
        numbers = {
            "count_time": number_in(said.get("count_time")), "frame_time": number_in(said.get("frame_time")),
            "incident_energy": number_in(said.get("energy")), "saturation_value": number_in(said.get("saturation")),
        }  # fmt: skip
        known = {name: value for name, value in numbers.items() if value is not None}
        if "saturation_value" in known:
            known["saturation_value"] = int(known["saturation_value"])
        threshold = number_in(said.get("threshold"))
        scan = frames.scan_shape
        return Header(
            rows=frames.shape[0],
            cols=frames.shape[1],
            dtype=frames.dtype.name,
            channels=(channel,),
            number_of_images=frames.count,
            description=text_in(said.get("description")) or "replayed from a file",
            serial_number="",
            threshold_energy=() if threshold is None else ((channel, threshold),),
            user_data=None if scan is None else {"scan": {"rows": scan[0], "cols": scan[1]}},
            pixel_mask=said.get("pixel_mask"),
            **known,  # type: ignore[arg-type]
        )
