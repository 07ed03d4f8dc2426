"""Files of one recorded message each, and what a file is instead where it is none."""

from __future__ import annotations

from pathlib import Path

from live4d_ophyd.sources.dectris.messages import StreamError

_FORMATS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\x89PNG": "a PNG image",
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
}


def recorded_message(path: Path) -> bytes:
    """The bytes of a file; raises `StreamError` where they are known as something other than a message of a stream."""
    raw = path.read_bytes()
    what = next((name for magic, name in _FORMATS.items() if raw.startswith(magic)), None)
    beginning = raw[:80].lstrip()
    if not raw:
        what = "empty"
    elif b'"htype"' not in raw[:4096] and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in beginning):
        # A message begins with the head of a map, which is no ASCII. Parts of stream v1 are JSON, and said by name.
        what = "JSON" if beginning[:1] in (b"{", b"[") else "text"
    if what:
        raise StreamError(f"the file is {what}; expected one message of the stream v2 (CBOR)")
    return raw
