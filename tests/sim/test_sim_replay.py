"""Recorded messages come out as they went in."""

import json
import subprocess
import sys
import time

import cbor2
import forked
import numpy as np
import pytest
from captures import EIGER2_500K, needs_captures
from click.testing import CliRunner

from live4d_ophyd.commands.sim import replay
from live4d_ophyd.sim.encode import Header, ImageTemplate, Series, end_message, start_message
from live4d_ophyd.sim.payloads import PayloadEncoder
from live4d_ophyd.sim.replay import Recording
from live4d_ophyd.sources.dectris.messages import StartMessage, read_message

SERIES = Series(4)


@pytest.fixture
def recorded(tmp_path):
    """Three images and an end without a start, in a directory."""
    frames = np.random.default_rng(0).poisson(2.0, (3, 2, 10, 14)).astype(np.uint32)
    payloads = PayloadEncoder((10, 14), "uint32", ("threshold_1", "threshold_2")).encode([frames])
    template = ImageTemplate(SERIES, 1e-3, 5e-4)
    for n in range(3):
        (tmp_path / f"{n:06}.cbor").write_bytes(template.message(n, payloads.payload(n)))
    (tmp_path / "000003.cbor").write_bytes(end_message(SERIES))
    (tmp_path / "notes.txt").write_text("not a message")
    return tmp_path


@pytest.fixture
def run_replay(make_client):
    """Start the command, connect, and get the messages until it ends."""
    processes = []

    def run(*arguments):
        command = [
            sys.executable,
            "-c",
            "from live4d_ophyd.commands.sim import replay; replay()",
            *map(str, arguments),
        ]
        process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        client = make_client(json.loads(process.stdout.readline())["stream_endpoint"])
        return process, client

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_files_in_the_order_given(recorded, run_replay):
    files = [recorded / name for name in ("000002.cbor", "000000.cbor", "000003.cbor")]
    process, client = run_replay(*files)
    assert [client.message() for _ in files] == [file.read_bytes() for file in files]
    assert process.wait(20) == 0
    assert "no start message among the files; --make-start" in process.stderr.read()


def test_directories_are_sorted_and_repeated(recorded, run_replay):
    process, client = run_replay(recorded, "--repeat", 2, "--rate", 0)
    messages = [file.read_bytes() for file in sorted(recorded.glob("*.cbor"))]
    assert [client.message() for _ in range(8)] == messages * 2
    assert process.wait(20) == 0


def test_images_are_paced(recorded, run_replay):
    process, client = run_replay(recorded, "--rate", 20)
    client.message()
    began = time.monotonic()
    for _ in range(3):
        client.message()
    assert time.monotonic() - began > 0.08
    assert process.wait(20) == 0


def test_start_made_from_the_first_image(recorded, run_replay):
    process, client = run_replay(recorded, "--make-start")
    received = client.series()
    assert process.wait(20) == 0
    assert isinstance(received.start, StartMessage)
    assert received.start.series_id == 4
    assert received.start.series_unique_id == SERIES.unique_id == received.end.series_unique_id
    assert received.start.channels == ("threshold_1", "threshold_2")
    assert (received.start.image_size_y, received.start.image_size_x) == (10, 14)
    assert received.start.image_dtype == np.dtype("<u4")
    assert received.start.number_of_images == 3
    assert received.start.count_time == 5e-4
    assert received.ids == [0, 1, 2]


@needs_captures
def test_real_captures(run_replay):
    process, client = run_replay(EIGER2_500K, "--make-start")
    received = client.series()
    assert process.wait(20) == 0
    frames = received.frames().values()
    assert [int(frame[frame < 65535].sum()) for frame in frames] == [909218] * 3


def test_a_recorded_start_is_kept(tmp_path):
    raw = start_message(SERIES, Header(2, 2, "uint8"))
    (tmp_path / "a.cbor").write_bytes(raw)
    recording = Recording.load([tmp_path])
    assert not recording.start_missing
    assert read_message(recording.messages[0]).series_id == 4


def output_of_a_refusal(*arguments):
    result = CliRunner().invoke(replay, [str(argument) for argument in arguments])
    assert result.exit_code != 0
    assert "stream_endpoint" not in result.output  # nothing was bound, so nothing sent
    return result.output


FOREIGN = {
    "empty": (b"", "the file is empty"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "the file is an HDF5 file"),
    "NumPy": (b"\x93NUMPY\x01\x00", "the file is a NumPy array"),
    "TIFF": (b"II*\x00" + bytes(100), "the file is a TIFF image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "the file is compressed by gzip"),
    "JSON": (b'{"type": "image", "series_id": 4}', "the file is JSON"),
    "JSON lines": (b'{"name": "start"}\n{"name": "stop"}\n', "the file is JSON"),
    "text": (b"not a message", "the file is text"),
    "stream v1": (b'{"htype":"dheader-1.0","series":1}', "old stream v1"),
    "zeros": (bytes(100), "goes on for 99 bytes after its end"),
    "cut off": (end_message(SERIES)[:-1], "cut off"),
    "more than one": (end_message(SERIES) * 2, "after its end"),
    "another map": (cbor2.dumps({"a": 1}), "type is missing"),
    "another type": (cbor2.dumps({"type": "note"}), "its type is 'note'; expected start, image or end"),
    "no map": (cbor2.dumps([1, 2]), "expected a map"),
}


@pytest.mark.parametrize(("content", "reason"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("by", ["file", "directory"])
def test_a_file_that_is_no_message_is_refused_by_name_before_anything_is_sent(recorded, by, content, reason):
    odd = recorded / "000001a.cbor"
    odd.write_bytes(content)
    output = output_of_a_refusal(*([recorded] if by == "directory" else [recorded / "000000.cbor", odd]))
    assert f"{odd} cannot be replayed" in output
    assert reason in output


def test_messages_with_odd_fields_are_replayed_as_they_are(tmp_path):
    odd = cbor2.dumps({"type": "start", "series_id": -1, "beam_center_x": "none"})
    (tmp_path / "a.cbor").write_bytes(odd)
    assert Recording.load([tmp_path]).messages == (odd,)


def test_a_start_message_is_not_made_from_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "a.cbor").write_bytes(cbor2.dumps({"type": "image"}))
    output = output_of_a_refusal(tmp_path, "--make-start")
    assert "cannot make a start message from the first frame: image message: series_id is missing" in output


def test_errors_are_told(tmp_path, recorded):
    empty = tmp_path / "empty"
    empty.mkdir()
    end = recorded / "000003.cbor"

    def output(*arguments):
        result = CliRunner().invoke(replay, [str(argument) for argument in arguments])
        assert result.exit_code != 0
        return result.output

    assert "nothing to replay: no *.cbor files" in output(empty)
    assert "there is no frame among the files" in output(end, "--make-start")
    assert "does not exist" in output("nowhere.cbor")
    assert "cannot stream at tcp://nowhere:x" in output(end, "--endpoint", "tcp://nowhere:x")


def test_a_directory_is_sent_as_a_detector_would_send_it(recorded):
    (recorded / "000003.cbor").rename(recorded / "a-end.cbor")
    (recorded / "000002.cbor").rename(recorded / "b.cbor")
    (recorded / "z-start.cbor").write_bytes(
        start_message(SERIES, Header(10, 14, "uint32", number_of_images=3))
    )
    recording = Recording.load([recorded])
    assert recording.types == ("start", "image", "image", "image", "end")
    assert [read_message(raw).image_id for raw in recording.messages[1:4]] == [0, 1, 2]
