"""What a client sees of the paced sender: content, order, rate, faults, and what happens without a client."""

import threading
import time

import numpy as np
import pytest
from sim_client import PATIENCE_S, Received

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sim.encode import ImageTemplate, Series, end_message
from live4d_ophyd.sim.faults import Faults
from live4d_ophyd.sim.frames import Readout, misfits
from live4d_ophyd.sim.payloads import PayloadEncoder
from live4d_ophyd.sim.sender import Sent, StreamSender

SERIES = Series(3)
STRAY = Series(2)
FRAMES = np.random.default_rng(0).poisson(3.0, (10, 1, 24, 24)).astype(np.uint16)


@pytest.fixture
def sender():
    sender = StreamSender()
    yield sender
    sender.close()


def send(sender, count, rate=0.0, faults=Faults(), first=0) -> Sent:  # noqa: B008
    payloads = PayloadEncoder((24, 24), "uint16").encode([FRAMES])
    template, stray = ImageTemplate(SERIES, 1e-5, 1e-5), ImageTemplate(STRAY, 1e-5, 1e-5)
    odd = misfits((24, 24), Readout())
    schedules = faults.schedules(first, count)
    return sender.send_images(template, payloads, schedules, rate, foreign=stray, misfits=odd)


def exchange(sender, client, count, **how) -> Received:
    assert sender.wait_for_peer()
    send(sender, count, **how)
    assert sender.send(end_message(SERIES))
    return client.series()


def test_frames_arrive_in_order_and_repeat_after_a_raster(sender, make_client):
    received = exchange(sender, make_client(sender.endpoint), 300)
    assert received.ids == list(range(300))
    assert {image.series_unique_id for image in received.images} == {SERIES.unique_id}
    for image in received.images:
        assert np.array_equal(decode_array(image.channels["threshold_1"]), FRAMES[image.image_id % 10, 0])


def test_rate_is_kept(sender, make_client):
    client = make_client(sender.endpoint)
    assert sender.wait_for_peer()
    sent = send(sender, 1000, rate=5000.0)
    assert sent.messages == 1000
    # 999 intervals; a busy machine may take longer, never shorter
    assert 0.199 < sent.elapsed_s < PATIENCE_S
    sender.send(end_message(SERIES))
    assert len(client.series().ids) == 1000


def test_faults_on_the_wire(sender, make_client):
    faults = Faults.parse(
        drop="1", late="2", duplicate="4", corrupt="6", truncate="7", foreign="9", late_by=3
    )
    received = exchange(sender, make_client(sender.endpoint), 12, faults=faults)
    assert received.ids == [0, 3, 4, 4, 5, 2, 6, 8, 9, 9, 10, 11]
    assert [image.series_id for image in received.images] == [3, 3, 3, 3, 3, 3, 3, 3, 2, 3, 3, 3]
    assert len(received.bad) == 1
    [damaged] = [image for image in received.images if image.image_id == 6]
    with pytest.raises(ValueError, match=r"block|truncated|size"):
        decode_array(damaged.channels["threshold_1"])


def test_images_that_do_not_fit_are_whole_messages(sender, make_client):
    faults = Faults.parse(wrong_shape="3,15", wrong_dtype="4,15", duplicate="4")
    received = exchange(sender, make_client(sender.endpoint), 20, faults=faults)
    assert received.ids == [0, 1, 2, 3, 4, *range(4, 20)]
    assert received.bad == []
    frames = received.frames()
    for image_id, shape, dtype in (
        (3, (12, 24), "uint16"),
        (4, (24, 24), "uint32"),
        (15, (12, 24), "uint16"),
    ):
        odd = frames.pop(image_id)
        assert (odd.shape, odd.dtype) == (shape, np.dtype(dtype))
        assert (odd == 1).all()
    for image_id, frame in frames.items():
        assert np.array_equal(frame, FRAMES[image_id % 10, 0])


def test_images_that_do_not_fit_must_be_given(sender):
    payloads = PayloadEncoder((24, 24), "uint16").encode([FRAMES])
    schedules = Faults.parse(wrong_shape="2").schedules(0, 4)
    with pytest.raises(ValueError, match="there are no misfits"):
        sender.send_images(ImageTemplate(SERIES, 1, 1), payloads, schedules, 0)


def test_a_stall_delays_what_follows_and_then_the_schedule_is_kept(sender, make_client):
    client = make_client(sender.endpoint)
    assert sender.wait_for_peer()
    arrivals = []
    faults = Faults(stall_at=10, stall_s=1.0)
    results = []
    thread = threading.Thread(target=lambda: results.append(send(sender, 200, rate=100.0, faults=faults)))
    began = time.monotonic()
    thread.start()
    for _ in range(200):
        client.message()
        arrivals.append(time.monotonic() - began)
    thread.join()
    assert results[0].messages == 200
    pauses = np.diff(arrivals)
    assert pauses.argmax() == 9
    assert arrivals[10] > 1.0
    # The exposures went on: 90 images were due when the stall was over, they came without their 10 ms each.
    assert np.median(pauses[10:99]) < 5e-3
    assert results[0].elapsed_s > 1.98


def test_stop_ends_a_stall_at_once(sender, make_client):
    make_client(sender.endpoint)
    assert sender.wait_for_peer()
    results = []
    faults = Faults(stall_at=5, stall_s=1000.0)
    thread = threading.Thread(target=lambda: results.append(send(sender, 10, faults=faults, first=2)))
    thread.start()
    while sender.progress[0] < 3:
        assert thread.is_alive()
        time.sleep(0.001)
    sender.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert (results[0].messages, results[0].stopped, results[0].next_image) == (3, True, 5)


def test_damage_is_the_same_every_time(sender, make_client):
    client = make_client(sender.endpoint)
    faults = Faults.parse(corrupt="every:1")
    assert sender.wait_for_peer()
    send(sender, 3, faults=faults)
    send(sender, 3, faults=faults)
    messages = [client.message() for _ in range(6)]
    assert messages[:3] == messages[3:]


def test_images_that_nobody_fetches_are_counted_as_dropped(make_client):
    sender = StreamSender(buffered=50)
    assert send(sender, 30) == Sent(0, 30, pytest.approx(0, abs=5), False)
    client = make_client(sender.endpoint)
    client.socket.rcvhwm = 1
    assert sender.wait_for_peer()
    sent = send(sender, 100_000)
    assert sent.dropped > 0
    assert sent.messages + sent.dropped == 100_000
    sender.close()


def test_blocking_sender_waits_for_a_slow_client(make_client):
    sender = StreamSender(buffered=50, block=True)
    client = make_client(sender.endpoint)
    results = []
    thread = threading.Thread(target=lambda: results.append(exchange_blocking(sender)))
    thread.start()
    assert client.series().ids == list(range(20_000))
    thread.join()
    assert results[0].dropped == 0
    sender.close()


def exchange_blocking(sender):
    sender.wait_for_peer()
    sent = send(sender, 20_000)
    sender.send(end_message(SERIES))
    return sent


def test_stop_ends_a_running_series(sender, make_client):
    make_client(sender.endpoint)
    assert sender.wait_for_peer()
    results = []
    thread = threading.Thread(target=lambda: results.append(send(sender, 10**6, rate=1000.0)))
    thread.start()
    while sender.progress[0] < 5:
        assert thread.is_alive()
        time.sleep(0.001)
    sender.stop()
    thread.join(PATIENCE_S)
    assert results[0].stopped
    assert results[0].messages < 10**5
    assert results[0].next_image == results[0].messages
    sender.resume()
    again = send(sender, 10)
    assert (again.messages, again.next_image) == (10, None)


def test_waiting_for_a_client_can_be_given_up(sender):
    asked = []
    assert not sender.send(b"x", lambda: bool(asked.append(1)) or len(asked) > 2)
    assert len(asked) == 3


def test_port_in_use_is_named(sender):
    with pytest.raises(OSError, match=rf"cannot stream at {sender.endpoint}: Address already in use"):
        StreamSender(sender.endpoint)


def test_nothing_to_send_is_refused(sender):
    empty = PayloadEncoder((24, 24), "uint16").encode([])
    with pytest.raises(ValueError, match="no frames to send"):
        sender.send_images(ImageTemplate(SERIES, 1, 1), empty, [], 1.0)
