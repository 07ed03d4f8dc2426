"""Whatever is lost, late or sent again on the way: messages arrive whole, once and in order; little is under way."""

import pytest
from fake_clock import set_clock
from hypothesis import given, settings
from hypothesis import strategies as st

from live4d_ophyd.engine.errors import ProtocolError
from live4d_ophyd.engine.process import delivery
from live4d_ophyd.engine.process.delivery import PART_BYTES, PREVIEW_WINDOW, WINDOW, Inbox, Outbox


def carry(outbox, inbox, most=None):
    """Carry parts until none is left, or ``most`` of them; the messages that came."""
    came = []
    carried = 0
    while parts := list(outbox.ready()):
        for part in parts:
            if carried == most:
                return came
            carried += 1
            if (message := inbox.accept(part)) is not None:
                came.append(message)
        outbox.received(inbox.parts, inbox.previews)
    return came


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 7])
def test_a_message_of_any_size_arrives_whole(size):
    outbox, inbox = Outbox(), Inbox()
    message = bytes(range(256)) * (size // 256 + 1)
    outbox.put(message[:size])
    outbox.put(b"next")
    assert carry(outbox, inbox) == [message[:size], b"next"]
    assert not outbox.waits
    assert outbox._events.bytes == 0


def test_only_a_few_parts_are_under_way():
    outbox, inbox = Outbox(), Inbox()
    outbox.put(bytes(20 * PART_BYTES))
    first = list(outbox.ready())
    assert len(first) == WINDOW
    assert list(outbox.ready()) == []
    inbox.accept(first[0])
    outbox.received(inbox.parts, inbox.previews)
    assert len(list(outbox.ready())) == 1


def test_previews_wait_for_what_must_arrive_and_for_each_other():
    outbox, inbox = Outbox(), Inbox()
    outbox.put_preview(b"p" * (3 * PART_BYTES))
    assert len(list(outbox.ready())) == PREVIEW_WINDOW
    assert not outbox.preview_free
    outbox.put_preview(b"another")  # dropped: one is under way
    outbox.put(b"result")
    (result,) = outbox.ready()
    assert inbox.accept(result) == b"result"
    assert list(outbox.ready()) == []  # of the preview, as the result is not acknowledged
    outbox.received(inbox.parts, inbox.previews)
    assert outbox.preview_free is False


def test_a_preview_is_free_again_when_it_has_arrived():
    outbox, inbox = Outbox(), Inbox()
    for message in (b"p" * (3 * PART_BYTES), b"q"):
        outbox.put_preview(message)
        assert carry(outbox, inbox) == [message]
        assert outbox.preview_free


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 3 * 40), min_size=1, max_size=6),
    st.lists(st.integers(0, 9), max_size=8),
    st.data(),
)
def test_after_any_cuts_everything_has_come_once_and_in_order(sizes, cuts, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "PART_BYTES", 40)
        outbox, inbox = Outbox(), Inbox()
        messages = [bytes([n]) * size for n, size in enumerate(sizes)]
        came = []
        waiting = list(messages)
        for cut in cuts:
            if waiting and data.draw(st.booleans()):
                outbox.put(waiting.pop(0))
            outbox.put_preview(b"preview")
            came += [m for m in carry(outbox, inbox, cut) if m != b"preview"]
            outbox.resume(inbox.parts)
        for message in waiting:
            outbox.put(message)
        came += [m for m in carry(outbox, inbox) if m != b"preview"]
    assert came == messages


def test_a_preview_that_was_cut_off_is_no_message():
    outbox, inbox = Outbox(), Inbox()
    outbox.put_preview(b"x" * (3 * PART_BYTES))
    for part in outbox.ready():
        assert inbox.accept(part) is None
    outbox.resume(inbox.parts)
    outbox.put_preview(b"whole")
    assert carry(outbox, inbox) == [b"whole"]


def test_what_was_not_sent_is_sent_later():
    outbox, inbox = Outbox(), Inbox()
    outbox.put(bytes(3 * PART_BYTES))
    for part in outbox.ready():
        outbox.unsent(part)
        break
    assert len(carry(outbox, inbox)) == 1


def test_more_than_the_bound_is_not_kept(monkeypatch):
    monkeypatch.setattr(delivery, "MOST_BYTES", 1000)
    outbox = Outbox()
    assert outbox.put(bytes(5000))  # one message is, whatever its size
    assert not outbox.put(bytes(1))


@pytest.mark.parametrize(("parts", "previews"), [(5, 0), (-1, 0), (0, 3)])
def test_more_than_was_sent_cannot_have_arrived(parts, previews):
    outbox = Outbox()
    outbox.put(bytes(PART_BYTES))
    list(outbox.ready())
    with pytest.raises(ValueError, match=r"parts; between 0 and \d were sent"):
        outbox.received(parts, previews)


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_noise_is_refused(frames):
    with pytest.raises(ProtocolError):
        Inbox().accept([b"E" + bytes(3), *frames])


def test_a_gap_is_refused():
    outbox, inbox = Outbox(), Inbox()
    outbox.put(bytes(3 * PART_BYTES))
    first, second, third = outbox.ready()
    inbox.accept(first)
    with pytest.raises(ProtocolError, match="part 2 came where part 1 was expected"):
        inbox.accept(third)
    assert inbox.accept(first) is None  # again, which harms nothing
    inbox.accept(second)


def test_what_was_cancelled_makes_way_for_what_follows():
    outbox, inbox = Outbox(), Inbox()
    outbox.put(b"armed", 1)
    outbox.put(b"x" * (20 * PART_BYTES), 1)
    outbox.put(b"done", 1)
    first = list(outbox.ready())  # the big one is under way
    outbox.cancel(1)
    outbox.put(b"late", 1)
    outbox.put(b"next", 2)
    came = [message for part in first if (message := inbox.accept(part)) is not None]
    outbox.received(inbox.parts, inbox.previews)
    assert came + carry(outbox, inbox) == [b"armed", b"next"]
    assert outbox._events.bytes == 0


@pytest.mark.parametrize("carried", [0, 1, 2, 5])
def test_a_cancel_between_cuts_loses_nothing_else(carried):
    outbox, inbox = Outbox(), Inbox()
    outbox.put(b"x" * (6 * PART_BYTES), 1)
    outbox.put(b"kept")
    came = carry(outbox, inbox, carried)
    outbox.resume(inbox.parts)
    outbox.cancel(1)
    came += carry(outbox, inbox)
    assert came == [b"kept"]


def test_a_part_that_is_larger_than_a_part_is_refused():
    with pytest.raises(ProtocolError, match="a part has 131073 bytes; expected at most 131072"):
        Inbox().accept([delivery._HEAD.pack(b"E", 3, 0), bytes(PART_BYTES + 1)])


def test_a_message_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(delivery, "MAX_MESSAGE_BYTES", 2 * PART_BYTES)
    outbox, inbox = Outbox(), Inbox()
    outbox.put(bytes(10 * PART_BYTES))
    with pytest.raises(ProtocolError, match="a message has more than"):
        carry(outbox, inbox)


def test_a_preview_is_as_large_as_the_link_carries_in_a_second(monkeypatch):
    now = [0.0]
    set_clock(monkeypatch, "live4d_ophyd.engine.process.delivery", lambda: now[0])
    outbox, inbox = Outbox(), Inbox()

    def preview(size, took):
        outbox.put_preview(bytes(size))
        now[0] += took
        carry(outbox, inbox)
        return outbox.preview_room

    first = int(outbox.preview_room)
    assert preview(first, 0.7) == first
    assert preview(first, 0.1) == 2 * first
    assert preview(100, 0.1) == 2 * first  # says nothing of large ones
    assert preview(first, 4.0) == first / 4
    assert preview(10, 4.0) == PART_BYTES  # less would not come sooner


def test_a_preview_that_was_cut_off_measures_nothing(monkeypatch):
    now = [0.0]
    set_clock(monkeypatch, "live4d_ophyd.engine.process.delivery", lambda: now[0])
    outbox, inbox = Outbox(), Inbox()
    first = outbox.preview_room
    outbox.put_preview(bytes(1 << 20))
    outbox.resume(0)
    now[0] = 1000.0
    outbox.put_preview(b"")
    carry(outbox, inbox)
    assert outbox.preview_room == first
