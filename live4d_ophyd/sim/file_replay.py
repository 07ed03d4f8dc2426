"""Frames of an HDF5 file back onto the wire, as messages of the stream v2.

In: a file whose frames lie in it one a chunk. Out: start, images in scan order, end; the frames' bytes as they are.
Messages are made when they are sent: the file need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2

from live4d_ophyd.frames.codecs import name_of
from live4d_ophyd.frames.encoded_array import COMPRESSION_TAG, ROW_MAJOR_TAG, array_tag
from live4d_ophyd.sim.encode import Header, ImageTemplate, Series, end_message, start_message
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames, Part, number_in, text_in


class FileReplay:
    """Iterated, it gives the messages of a series and what each is. Raises ValueError, FileNotFoundError.

    Of a file that an engine recorded, with all channels.
    """

    def __init__(self, path: Path) -> None:
        self._frames = Hdf5Frames(str(path))
        self._others: dict[str, Hdf5Frames] = {}
        try:
            for channel, dataset in self._frames.other_channels().items():
                self._others[channel] = Hdf5Frames(str(path), dataset)
            if any(part.content is None for frames in self._every() for part in frames.parts):
                raise ValueError(
                    f"the frames of {path} are not one a chunk, compressed as a detector sends them: they cannot be "
                    "replayed as they are"
                )
        except BaseException:
            self.close()
            raise

    def _every(self) -> list[Hdf5Frames]:
        return [self._frames, *self._others.values()]

    def close(self) -> None:
        for frames in self._every():
            frames.close()

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        said = self._frames.said()
        channel = text_in(said.get("channel")) or "threshold_1"
        header = self._header(said, (channel, *self._others))
        series = Series(1)
        yield start_message(series, header, "all"), "start"
        template = ImageTemplate(series, header.frame_time, header.count_time)
        for part in self._frames.parts:
            others = {name: frames.parts[0] for name, frames in self._others.items()}
            for n in range(part.count):
                arrays = {name: _array(p, n) for name, p in ({channel: part} | others).items()}
                there = {name: array for name, array in arrays.items() if array is not None}
                if channel in there:
                    yield template.message(part.first + n, cbor2.dumps(there)), "image"
        yield end_message(series), "end"

    def _header(self, said: dict[str, Any], channels: tuple[str, ...]) -> Header:
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
            channels=channels,
            number_of_images=frames.count,
            description=text_in(said.get("description")) or "replayed from a file",
            serial_number="",
            threshold_energy=() if threshold is None else ((channels[0], threshold),),
            user_data=None if scan is None else {"scan": {"rows": scan[0], "cols": scan[1]}},
            pixel_mask=said.get("pixel_mask"),
            **known,  # type: ignore[arg-type]
        )


def _array(part: Part, n: int) -> cbor2.CBORTag | None:
    """A frame as a message has it; None where there is none."""
    assert part.content is not None
    assert part.at is not None
    assert part.nbytes is not None
    assert part.codec is not None
    if part.at[n] < 0:
        return None
    data = part.content[part.at[n] : part.at[n] + part.nbytes[n]].tobytes()
    name = name_of(int(part.codec[n]))
    packed: Any = cbor2.CBORTag(COMPRESSION_TAG, [name, part.elem_size, data]) if name else data
    tag = array_tag(part.dtype.newbyteorder("<"))
    return cbor2.CBORTag(ROW_MAJOR_TAG, [list(part.shape), cbor2.CBORTag(tag, packed)])
