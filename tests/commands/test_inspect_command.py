"""`live4d inspect`: numbers of recorded messages, and the reason where there are none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cbor2
import numpy as np
import pytest
import stream_wire as wire
from captures import CAPTURES, EIGER2_16M, EIGER2_500K, needs_captures
from click.testing import CliRunner

from live4d_ophyd.commands.inspect import inspect


def run(*arguments):
    """(exit code, lines printed)"""
    result = CliRunner().invoke(inspect, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output.splitlines()


def run_json(*arguments):
    code, lines = run(*arguments, "--json")
    return code, [json.loads(line) for line in lines]


@needs_captures
def test_captured_series():
    code, records = run_json(EIGER2_500K)
    assert code == 0
    assert [(record["type"], record["image_id"]) for record in records] == [
        *(("image", i) for i in range(3)),
        ("end", None),
    ]
    for record in records[:3]:
        assert list(record["channels"]) == ["threshold_1", "threshold_2", "difference"]
        first = record["channels"]["threshold_1"]
        assert (first["shape"], first["dtype"], first["sum"]) == ([514, 1030], "uint16", 909218)
        assert (first["max"], first["nodata"]) == (4, 0)
        assert record["channels"]["difference"]["max"] == 65535
        assert record["series_unique_id"] == "01GRXWT80JSDY2FNW8SGCCDZD9"
    assert len({record["channels"]["threshold_1"]["sha256"] for record in records[:3]}) == 3


@needs_captures
def test_captured_16m_frame_has_pixels_without_data():
    code, (end, image, start) = run_json(EIGER2_16M)
    assert code == 0
    found = image["channels"]["threshold_1"]
    assert found["nodata"] == 1_253_075
    assert found["sum"] - found["nodata"] * 65535 == 13_712
    assert (start["image_shape"], start["pixel_mask"], len(start["notes"])) == (
        [4362, 4148],
        {"threshold_1": None},
        3,
    )
    assert end == {**end, "type": "end", "image_id": None, "channels": {}}


@needs_captures
def test_table_of_captures():
    code, lines = run(CAPTURES)
    assert code == 0
    assert lines[0].split() == [
        *("file", "type", "series", "frame", "channel", "shape", "dtype", "sum", "max", "nodata"),
    ]
    assert ["000001.cbor", "image", "1", "0", "threshold_1", "514x1030", "uint16", "909218", "4", "0"] in [
        line.split() for line in lines
    ]
    assert any(line.startswith("  note: ") and "pixel_mask" in line for line in lines)


def write(path, raw):
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("code", "tag"), [("u1", 64), ("<u2", 69), (">u4", 66), (">u8", 67), ("<i8", 79), ("i1", 72)]
)
def test_integer_sums_are_exact_and_the_digest_is_of_little_endian_bytes(tmp_path, code, tag):
    limits = np.iinfo(code)
    pixels = np.array([[limits.max, limits.min, 1], [limits.max, limits.max, 5]], code)
    path = write(tmp_path / "a.cbor", wire.image(data=wire.mapping({"a": wire.raw_image(pixels, tag)})))
    _, (record,) = run_json(path)
    assert record["file"] == str(path)
    assert record["channels"]["a"] == {
        "shape": [2, 3],
        "dtype": np.dtype(code).name,
        "sum": 3 * int(limits.max) + int(limits.min) + 6,
        "max": int(limits.max),
        "nodata": 3,
        "sha256": hashlib.sha256(pixels.astype(np.dtype(code).newbyteorder("<")).tobytes()).hexdigest(),
        "algorithm": None,
        "bytes": pixels.nbytes,
    }


def test_floats_and_column_major_order(tmp_path):
    pixels = np.array([[0.5, 1.0, 2.0], [3.0, np.inf, 4.0]], "<f4")
    column_major = wire.image_array((2, 3), 85, wire.data(pixels.tobytes(order="F")), order_tag=1040)
    _, (record,) = run_json(write(tmp_path / "a.cbor", wire.image(data=wire.mapping({"a": column_major}))))
    found = record["channels"]["a"]
    assert (found["dtype"], found["sum"], found["max"], found["nodata"]) == ("float32", None, None, None)
    assert found["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_refused_messages_have_the_reason_and_exit_code_1(tmp_path):
    write(tmp_path / "b.cbor", b'{"htype":"dheader-1.0","series":1}')
    write(tmp_path / "a.cbor", wire.end())
    write(tmp_path / "c.cbor", wire.image()[:-1])
    write(tmp_path / "d.cbor", wire.image())  # its content is no bslz4
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "e.cbor", wire.end())
    write(tmp_path / "notes.txt", b"no message")
    code, records = run_json(tmp_path)
    assert code == 1
    assert [Path(record["file"]).name for record in records] == [
        "a.cbor",
        "b.cbor",
        "c.cbor",
        "d.cbor",
        "e.cbor",
    ]
    assert [record.keys() == {"file", "error"} for record in records] == [False, True, True, True, False]
    assert "stream v1" in records[1]["error"]
    assert "cut off" in records[2]["error"]
    assert "bslz4" in records[3]["error"]
    code, lines = run(tmp_path / "b.cbor", tmp_path / "a.cbor")
    assert code == 1
    assert lines[1].startswith("b.cbor: this is a part of the old stream v1")
    assert lines[2].split() == ["a.cbor", "end", "7"]


def test_user_data_of_any_kind_is_valid_json(tmp_path):
    user_data = {1: b"x", (1, 2): float("nan"), "d": [cbor2.CBORTag(99, 1), {"e": 2**70}]}
    raw = cbor2.dumps({"type": "start", "series_id": 1, "user_data": user_data})
    code, (record,) = run_json(write(tmp_path / "a.cbor", raw))
    assert code == 0
    assert record["user_data"]["d"][1] == {"e": 2**70}
    assert record["user_data"]["(1, 2)"] == "nan"


def test_what_a_stream_says_of_itself_is_shown(tmp_path):
    (tmp_path / "start.cbor").write_bytes(
        cbor2.dumps({"type": "start", "series_id": 1, "user_data": '{"scan":1}'})
    )
    _, lines = run(tmp_path)
    assert '  says of itself: {"scan":1}' in lines


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b'{"type": "image"}', "JSON"),
        (b"notes", "text"),
    ],
)
def test_a_file_of_another_format_is_said_to_be_one(tmp_path, content, what):
    code, (record,) = run_json(write(tmp_path / "a.cbor", content))
    assert code == 1
    assert record["error"].startswith(f"the file is {what}; expected one message of the stream v2")


def test_a_file_that_is_not_there_is_an_error_of_usage(tmp_path):
    code, lines = run(tmp_path / "none.cbor")
    assert code == 2
    assert "does not exist" in lines[-1]


def test_a_directory_without_messages_is_an_error(tmp_path):
    result = CliRunner().invoke(inspect, [str(tmp_path)])
    assert result.exit_code == 1
    assert f"no *.cbor in {tmp_path}" in result.output
