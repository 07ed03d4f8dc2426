"""Floods from either side fill no log, no terminal and no memory, and keep no trigger alive."""

import logging
import threading
import time
from contextlib import closing
from pathlib import Path

import cbor2
import pytest
import zmq
from system.hostile.rogue import MIB, Cost, Events, engine, message

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.protocol import Failed
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu

pytestmark = pytest.mark.system


def starts(seconds):
    """As fast as they are taken, each another series, with a note that is worth a warning and an escape in it."""
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        number += 1
        yield message(
            "start",
            series_id=number,
            number_of_images=12,
            detector_description="\x1b]0;owned\x07",
            frame_time="soon",
        )


def test_a_stream_of_starts_is_silence_and_fills_no_log(caplog):
    with engine() as client, closing(SmallDcu()) as dcu:
        log_file = Path(client._process._log_file)
        cost, events = Cost(client.pid), Events()
        begin = time.monotonic()
        dcu.send(starts(6.0))
        request = AcquisitionRequest(
            DectrisSource(dcu.endpoint), ScanGrid(3, 4), (Disk("vbf", radius=6),), timeout=1.0
        )
        client.acquire(1, request, events)
        last = events.last()
        assert time.monotonic() - begin < 5, "starts kept the trigger alive"
        assert isinstance(last, Failed)
        assert isinstance(last.error, NothingCame)
        assert log_file.stat().st_size < 100_000  # it was 1.7 MB a second
        assert b"\x1b" not in log_file.read_bytes()
        assert sum(len(record.getMessage()) for record in caplog.records) < 100_000
        assert cost.peak < 200 * MIB


def test_an_engine_that_floods_the_session_is_logged_a_little_and_as_text(caplog):
    over = threading.Event()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as rogue:
        rogue.linger = 0
        port = rogue.bind_to_random_port("tcp://127.0.0.1")

        def flood():
            assert rogue.poll(10_000)
            peer, _ = rogue.recv_multipart()
            line = protocol.encode(protocol.LogLine(logging.WARNING, "\x1b[2J\x1b]0;owned\x07" * 1000))
            nonsense = cbor2.dumps({"v": protocol.VERSION, "kind": "\x1b" * 1000})
            huge = protocol.encode(protocol.LogLine(logging.WARNING, "x" * (30 * MIB)))
            failure = protocol.encode(
                protocol.Refused(protocol.Failure("NoEngine", "\x1b[2J" + "x" * (30 * MIB)))
            )
            rogue.send_multipart([peer, failure])
            rogue.send_multipart([peer, huge])
            while not over.is_set():
                for piece in (line, nonsense):
                    try:
                        rogue.send_multipart([peer, piece], zmq.DONTWAIT)
                    except zmq.ZMQError:
                        over.wait(0.001)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            with caplog.at_level("WARNING"), closing(EngineClient(f"tcp://127.0.0.1:{port}")) as client:
                with pytest.raises(Exception, match="refused") as raised:
                    client.wait_ready(30)
                time.sleep(2)  # of a flood: what is logged meanwhile is bounded
        finally:
            over.set()
            thread.join()
    assert len(str(raised.value)) < 10_000
    assert "\x1b" not in str(raised.value)
    texts = [record.getMessage() for record in caplog.records]
    assert sum(map(len, texts)) < 500_000  # it was 37 MB in 5 s
    assert not any("\x1b" in text for text in texts)
