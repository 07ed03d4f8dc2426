"""`live4d inspect`: what recorded messages hold, decoded.

In: files of one message each. Out: a line a message, as JSON or as a table, on standard output. One thread.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sources.dectris.messages import (
    EncodedArray,
    EndMessage,
    ImageMessage,
    Message,
    StartMessage,
    read_message,
)
from live4d_ophyd.sources.dectris.recorded import recorded_message

Record = dict[str, Any]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@click.pass_context
def inspect(context: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Decode recorded messages of the DECTRIS stream v2 and say what is in them.

    FILES hold one message each; of a directory, all *.cbor in it and below are taken, sorted by path.

    Sums are over all pixels as decoded. Pixels at the largest value of an integer type hold no data: they are
    in the sum and the maximum, and counted as `nodata`. A message that is refused or will not decode gets a
    line with the reason, and the exit code is then 1.
    """
    failed = False
    messages = list(_message_files(files))
    if not messages:
        raise click.ClickException(f"nothing to inspect: no *.cbor in {', '.join(map(str, files))}")
    if not as_json:
        click.echo(_table_line(_TITLES))
    for record in map(inspect_file, messages):
        failed = failed or "error" in record
        if as_json:
            click.echo(json.dumps(_jsonable(record)))
        else:
            for line in _table(record):
                click.echo(line)
    context.exit(1 if failed else 0)


def inspect_file(path: Path) -> Record:
    """What one file holds: ``file``, ``type``, ``image_id``, ``channels`` and more; or ``error``."""
    try:
        return {"file": str(path), **describe_message(read_message(recorded_message(path)))}
    except (OSError, ValueError) as error:  # StreamError and DecodeError are ValueErrors
        return {"file": str(path), "error": str(error)}


def describe_message(message: Message) -> Record:
    """The message's fields, its arrays as numbers; raises DecodeError if one will not decode."""
    if isinstance(message, ImageMessage):
        return {
            "type": "image",
            "image_id": message.image_id,
            "channels": {name: describe_array(array) for name, array in message.channels.items()},
            **_series(message),
            "series_date": message.series_date and message.series_date.isoformat(),
            "start_time": None if message.start_time is None else float(message.start_time),
            "real_time": None if message.real_time is None else float(message.real_time),
            "user_data": message.user_data,
            "notes": list(message.notes),
        }
    if isinstance(message, StartMessage):
        return {"type": "start", "image_id": None, "channels": {}, **_series(message), **_start(message)}
    if isinstance(message, EndMessage):
        return {"type": "end", "image_id": None, "channels": {}, **_series(message)}
    return {"type": message.type, "image_id": None, "channels": {}}


def describe_array(encoded: EncodedArray) -> Record:
    """Shape, type and numbers of the decoded array, enough to say whether two readers saw the same frame."""
    pixels = decode_array(encoded)
    little_endian = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return {
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "sum": _sum(pixels),
        "max": _json_number(pixels.max()),
        "nodata": count_nodata(pixels),
        "sha256": hashlib.sha256(little_endian.tobytes()).hexdigest(),
        "algorithm": encoded.algorithm or None,
        "bytes": len(encoded.data),
    }


def count_nodata(pixels: np.ndarray) -> int | None:
    """Pixels at the largest value of an integer type; None for floats, which have no such value."""
    if pixels.dtype.kind not in "ui":
        return None
    return int(np.count_nonzero(pixels == np.iinfo(pixels.dtype).max))


def _sum(pixels: np.ndarray) -> int | float | None:
    if pixels.dtype.kind not in "ui":
        return _json_number(pixels.sum(dtype=np.float64))
    if pixels.dtype.itemsize < 8:
        return int(pixels.sum(dtype=np.int64))
    # In halves of 32 bits: no frame is large enough to overflow the sum of one.
    return int((pixels & 0xFFFFFFFF).sum()) + (int((pixels >> 32).sum()) << 32)


def _json_number(value: np.generic) -> int | float | None:
    """A Python number; None for those that JSON does not have."""
    number = value.item()
    return number if isinstance(number, int) or math.isfinite(number) else None


def _series(message: StartMessage | ImageMessage | EndMessage) -> Record:
    return {"series_id": message.series_id, "series_unique_id": message.series_unique_id}


def _start(message: StartMessage) -> Record:
    def tables(arrays: Any) -> Record | None:
        return (
            None if arrays is None else {name: array and list(array.shape) for name, array in arrays.items()}
        )

    shape = None if message.image_size_y is None else [message.image_size_y, message.image_size_x]
    return {
        "arm_date": message.arm_date and message.arm_date.isoformat(),
        "detector": message.detector_description,
        "serial_number": message.detector_serial_number,
        "channel_names": list(message.channels),
        "image_shape": shape,
        "image_dtype": None if message.image_dtype is None else message.image_dtype.name,
        "number_of_images": message.number_of_images,
        "count_time": message.count_time,
        "frame_time": message.frame_time,
        "incident_energy": message.incident_energy,
        "saturation_value": message.saturation_value,
        "flatfield": tables(message.flatfield),
        "pixel_mask": tables(message.pixel_mask),
        "user_data": message.user_data,
        "notes": list(message.notes),
    }


def _message_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*.cbor") if file.is_file())
        else:
            yield path


def _jsonable(value: Any) -> Any:
    """The value with text keys, and as text what JSON does not have (user_data may be anything)."""
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


_TITLES = ("file", "type", "series", "frame", "channel", "shape", "dtype", "sum", "max", "nodata")
_WIDTHS = (28, 6, 7, 7, 12, 12, 8, 14, 11, 9)
_TEXT_COLUMNS = 2  # left-aligned ones at the start of a line


def _table_line(cells: Iterable[object]) -> str:
    texts = ["" if cell is None else str(cell) for cell in cells]
    padded = [
        text.ljust(width) if i < _TEXT_COLUMNS else text.rjust(width)
        for i, (text, width) in enumerate(zip(texts, _WIDTHS))
    ]
    return "  ".join(padded).rstrip()


def _table(record: Record) -> Iterator[str]:
    name = Path(record["file"]).name
    if "error" in record:
        yield f"{name}: {record['error']}"
        return
    first = (name, record["type"], record.get("series_id"), record["image_id"])
    for channel, found in record["channels"].items():
        shape = "x".join(map(str, found["shape"]))
        yield _table_line(
            (*first, channel, shape, found["dtype"], found["sum"], found["max"], found["nodata"])
        )
    if not record["channels"]:
        yield _table_line(first)
    if record["type"] == "start" and record["user_data"]:
        yield f"  says of itself: {record['user_data']}"
    for note in record.get("notes", ()):
        yield f"  note: {note}"
