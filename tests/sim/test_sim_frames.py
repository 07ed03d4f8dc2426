"""Frames that are computed while they are asked for: the same whoever computes them, when and in which order."""

import threading
import time

import numpy as np
import pytest
from sim_client import wait_for

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sim.encode import ImageTemplate, Series
from live4d_ophyd.sim.frames import CHUNK, FrameSource, Raster, Readout
from live4d_ophyd.sim.kept import Kept
from live4d_ophyd.sim.payloads import Stopped
from live4d_ophyd.sim.server import warm_up
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen
from live4d_ophyd.sources.dectris.messages import read_message

SPECIMEN = Specimen(size_nm=6.0)
DETECTOR = Detector(32, 32)
#: three chunks, the last one short
SCAN = Scan(17, 17)
TEMPLATE = ImageTemplate(Series(1), 1e-4, 1e-4)


@pytest.fixture
def make_source():
    made = []

    def make(**options):
        made.append(FrameSource(SPECIMEN, **options))
        return made[-1]

    yield make
    for source in made:
        source.close()


def raster(source, number=1, scan=SCAN, microscope=Microscope(), detector=DETECTOR, **part) -> Raster:  # noqa: B008
    return source.raster(microscope, scan, detector, Readout(), number, **part)


def pixels(raster, number):
    message = read_message(TEMPLATE.message(0, raster.payload(number)))
    return decode_array(message.channels["threshold_1"])


def test_frames_do_not_depend_on_order_threads_or_what_is_kept(make_source):
    forwards, backwards = raster(make_source(threads=3)), raster(make_source(threads=1, kept_bytes=0))
    mine = [pixels(forwards, n) for n in range(SCAN.frames)]
    for n in reversed(range(0, SCAN.frames, 7)):
        assert np.array_equal(pixels(backwards, n), mine[n])


def test_counts_have_the_means_of_the_patterns(make_source):
    microscope = Microscope(beam_current_pA=200)
    source = make_source()
    means = source.optics(microscope, DETECTOR).quantised(SCAN.positions_nm()).patterns
    means *= microscope.electrons(Readout().count_time)
    frames = raster(source, microscope=microscope)
    counts = np.stack([pixels(frames, n) for n in range(SCAN.frames)])
    assert (counts - means).mean() == pytest.approx(0, abs=5 * np.sqrt(means.mean() / counts.size))
    bright = means > 5
    assert ((counts - means)[bright] ** 2 / means[bright]).mean() == pytest.approx(1, abs=0.02)


def test_larger_detector_sees_nothing_outside_the_simulated_square(make_source):
    detector = Detector(250, 300)
    detector.check()
    frame = pixels(raster(make_source(), scan=Scan(1, 1), detector=detector), 0)
    assert frame.shape == (250, 300)
    (row, col), n = detector.origin, detector.window
    assert n == 192
    assert frame[row : row + n, col : col + n].sum() == frame.sum() > 10_000
    row, col = np.indices(frame.shape)
    inside = np.hypot(row - detector.bf_center[0], col - detector.bf_center[1]) <= detector.bf_radius
    assert frame[inside].sum() > 0.8 * frame.sum()


def computed(source, monkeypatch):
    """Numbers of the chunks whose patterns, and whose counts, are computed from now on."""
    patterns, counts = [], []
    quantised, encoded = source.patterns.put, source.encoded.put
    monkeypatch.setattr(source.patterns, "put", lambda *a: (patterns.append(a[1]), quantised(*a)))
    monkeypatch.setattr(source.encoded, "put", lambda *a: (counts.append(a[1]), encoded(*a)))
    return patterns, counts


def everything(raster):
    for number in range(-(-len(raster) // CHUNK)):
        raster.chunk(number)


def test_an_unchanged_specimen_is_computed_once_and_new_noise_from_what_is_kept(make_source, monkeypatch):
    source = make_source()
    patterns, counts = computed(source, monkeypatch)
    first = raster(source)
    everything(first)
    assert (sorted(patterns), sorted(counts)) == ([0, 1, 2], [0, 1, 2])
    again, next_series = raster(source, 1), raster(source, 2)
    everything(again)
    assert len(counts) == 3
    everything(next_series)
    assert (len(patterns), sorted(counts[3:])) == (3, [0, 1, 2])
    assert not np.array_equal(pixels(next_series, 5), pixels(first, 5))
    everything(raster(source, 3, microscope=Microscope(defocus_nm=9.0)))
    assert len(patterns) == 6


def test_a_beam_of_another_current_needs_no_new_patterns(make_source, monkeypatch):
    source = make_source(frozen_noise=True)
    patterns, _ = computed(source, monkeypatch)
    bright, dark = (raster(source, microscope=Microscope(beam_current_pA=i)) for i in (100, 10))
    assert pixels(bright, 0).sum() == pytest.approx(10 * pixels(dark, 0).sum(), rel=0.1)
    everything(bright)
    everything(dark)
    assert sorted(patterns) == [0, 1, 2]


def test_beyond_the_bound_it_is_computed_again_and_is_the_same(make_source, monkeypatch):
    source = make_source(kept_bytes=2 * 2 * CHUNK * 32 * 32 * 2 + 4096)
    frames = raster(source)
    before = [pixels(frames, n) for n in (3, 200, 280)]
    everything(frames)
    assert source.patterns.nbytes <= source.patterns.bound
    frames.close()
    patterns, _ = computed(source, monkeypatch)
    other_series = raster(source, 7)
    everything(other_series)
    assert 2 in patterns
    assert 0 not in patterns
    source.encoded = Kept(0)
    again = raster(source)
    assert all(np.array_equal(pixels(again, n), b) for n, b in zip((3, 200, 280), before))


def test_only_what_will_be_sent_is_computed(make_source, monkeypatch):
    source = make_source()
    _, counts = computed(source, monkeypatch)
    middle = raster(source, first=SCAN.frames + CHUNK + 1, count=5)
    middle.chunk(1)
    assert middle.progress == (CHUNK, CHUNK)
    middle.close()
    around = raster(source, 2, first=SCAN.frames - 1, count=2)
    around.chunk(2)
    around.chunk(0)
    assert around.progress[1] == SCAN.frames
    source.close()
    assert counts[0] == 1
    assert counts.count(0) == 1


def test_waiting_for_a_frame_can_be_given_up(make_source, monkeypatch):
    source = make_source(threads=1)
    go_on, begun = threading.Event(), threading.Event()

    def slow(*key):
        begun.set()
        go_on.wait()

    monkeypatch.setattr(source.encoded, "get", slow)
    frames = raster(source)
    ended = []

    def ask():
        with pytest.raises(Stopped):
            frames.chunk(0, lambda: bool(ended))

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(10)
    ended.append(True)
    thread.join(10)
    assert not thread.is_alive()
    frames.close()
    go_on.set()


@pytest.fixture
def second_chunk(monkeypatch):
    """The event that lets the second chunk of every raster, and those after it, be computed."""
    compute, allowed = Raster._payloads, threading.Event()

    def payloads(raster, number):
        if number > 0:
            allowed.wait()
        return compute(raster, number)

    monkeypatch.setattr(Raster, "_payloads", payloads)
    yield allowed
    allowed.set()


def test_images_that_were_computed_too_late_do_not_hurry_those_behind(make_dcu, make_client, second_chunk):
    dcu = make_dcu(rate=1e3, rows=16, cols=16)
    warm_up(dcu)  # time to compile is no time to compute
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] == CHUNK)
    assert dcu.state == "acquire"
    assert dcu.progress["text"] == "simulator: computing, 128 of 256 frames"
    for _ in range(1 + CHUNK):
        client.message()
    with pytest.raises(TimeoutError):
        client.message(timeout=0.3)
    second_chunk.set()
    client.message()
    began = time.monotonic()
    for _ in range(CHUNK - 1):
        client.message()
    # 127 intervals of 1 ms; were they to catch up with a wait of 0.3 s they would come at once
    assert time.monotonic() - began > 0.1


def test_disarm_while_frames_are_computed_ends_the_series(make_dcu, make_client, second_chunk):
    dcu = make_dcu(rows=16, cols=16)
    client = make_client(dcu.sender.endpoint)
    dcu.arm()
    wait_for(lambda: dcu.sender.progress[0] == CHUNK)
    dcu.disarm()
    assert dcu.state == "idle"
    received = client.series()
    assert received.ids == list(range(CHUNK))
    assert received.end is not None


def test_late_images_across_chunks_have_their_own_frames(make_dcu, make_client):
    plain, late = make_dcu(rows=16, cols=20), make_dcu(rows=16, cols=20)
    late.faults = late.faults.parse(late="every:50", late_by=200, wrong_shape="130")
    series = []
    for dcu in (plain, late):
        client = make_client(dcu.sender.endpoint)
        dcu.arm()
        series.append(client.series())
    assert series[1].ids != sorted(series[1].ids)
    mine, expected = (received.frames() for received in series[::-1])
    assert mine.keys() == expected.keys()
    assert mine.pop(130).shape == (16, 32)
    assert all(np.array_equal(frame, expected[n]) for n, frame in mine.items())


def test_the_bound_is_an_option(make_dcu):
    kept = make_dcu(kept_mb=3).source
    assert kept.encoded.bound + kept.patterns.bound == 3 << 20


class Thing:
    nbytes = 10


def test_what_was_used_longest_ago_goes_first():
    kept = Kept(30)
    a, b, c, d = (Thing() for _ in range(4))
    for whole, thing in (("a", a), ("b", b), ("c", c)):
        kept.put(whole, 0, thing)
    assert kept.get("a", 0) is a
    kept.put("d", 0, d)
    assert [kept.get(whole, 0) for whole in "abcd"] == [a, None, c, d]
    assert kept.nbytes == 30


def test_a_whole_beyond_the_bound_keeps_its_first_parts():
    kept = Kept(25)
    kept.put("old", 0, Thing())
    for number in range(4):
        kept.put("new", number, Thing())
    assert [kept.get("new", number) is not None for number in range(4)] == [True, True, False, False]
    assert kept.get("old", 0) is None
