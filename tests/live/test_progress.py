"""The progress bar of a wait."""

import io

import pytest
from bluesky import plans as bp
from bluesky.utils import ProgressBarManager
from fake_device import FakeLive4D, WatchedStatus
from ophyd import Device
from ophyd.sim import motor
from ophyd.status import Status

from live4d_ophyd.live import ScanProgressBar, live_preview


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def status():
    status = WatchedStatus(Device("", name="live4d"), total=65536)
    yield status
    if not status.done:
        status.set_finished()


def test_frames_of_expected_and_the_rate_are_shown(status):
    terminal = Terminal()
    bar = ScanProgressBar(delay=0, file=terminal)
    bar([status])
    status.watchers[0](name="live4d", current=16384, initial=0, target=65536, unit="frames", rate=120_300.0)
    line = terminal.getvalue().split("\r")[-1]
    assert "live4d:  25%" in line
    assert line.endswith("16384/65536 frames, 120 kHz")
    bar(None)
    assert terminal.getvalue().split("\r")[-2].strip() == ""


@pytest.mark.parametrize(
    ("current", "elapsed", "text"),
    [(16384, 65.4, "1:05 and 3:16 to go"), (65536, 59.6, "1:00 and 0:00 to go"), (0, 3.0, "0:03")],
)
def test_the_time_that_has_gone_and_what_is_left_are_shown(status, current, elapsed, text):
    terminal = Terminal()
    ScanProgressBar(delay=0, file=terminal)([status])
    status.watchers[0](
        name="live4d", current=current, initial=0, target=65536, unit="frames", rate=1e3, time_elapsed=elapsed
    )
    assert terminal.getvalue().split("\r")[-1].endswith(f"frames, 1 kHz, {text}")


def test_the_rate_is_derived_from_the_time_if_the_status_does_not_say_it(status):
    terminal = Terminal()
    ScanProgressBar(delay=0, file=terminal)([status])
    status.watchers[0](name="live4d", current=500, initial=0, target=1000, unit="frames", time_elapsed=2.0)
    assert "500/1000 frames, 250 Hz" in terminal.getvalue()


def test_nothing_is_written_where_stdout_is_no_terminal(RE, capsys):
    RE.waiting_hook = ScanProgressBar(delay=0)
    RE(bp.count([FakeLive4D(name="live4d", rows_per_s=1000)]))
    assert capsys.readouterr() == ("", "")


def test_short_waits_draw_nothing(status):
    terminal = Terminal()
    bar = ScanProgressBar(delay=60, file=terminal)
    bar([status])
    status.report(1000)
    bar(None)
    assert terminal.getvalue() == ""


def test_other_statuses_pass_unnoticed(status):
    terminal = Terminal()
    bar = ScanProgressBar(delay=0, file=terminal)
    plain, done = Status(), WatchedStatus(Device("", name="done"), total=10)
    plain.set_finished()
    done.set_finished()
    bar([plain, done])
    assert not done.watchers
    bar([status])
    status.watchers[0](name="m", current=None, initial=None, target=None, unit="mm")
    bar(None)
    bar(None)
    assert terminal.getvalue() == ""


def test_a_late_report_after_the_end_draws_nothing(status):
    terminal = Terminal()
    bar = ScanProgressBar(delay=0, file=terminal)
    bar([status])
    bar(None)
    status.report(1000)
    assert terminal.getvalue() == ""


def test_it_follows_whole_plans_with_previews(RE):
    terminal = Terminal()
    RE.waiting_hook = ScanProgressBar(delay=0, file=terminal)
    device = FakeLive4D(name="live4d", shape=(16, 24), rows_per_s=200)
    RE.preprocessors.append(live_preview([device], max_rate=100))
    RE(bp.scan([device], motor, -1, 1, 2))
    assert "live4d: 100%" in terminal.getvalue()
    assert "/384 frames" in terminal.getvalue()


def test_a_wait_that_never_ended_is_cleared_by_the_next_without_a_word(status):
    terminal = Terminal()
    bar = ScanProgressBar(delay=0, file=terminal)
    bar([status])
    first = status.watchers[0]
    status.report(1000)
    bar([status])  # warnings are errors here
    drawn = terminal.getvalue()
    first(name="live4d", current=2000, initial=0, target=65536, unit="frames")
    assert drawn
    assert terminal.getvalue() == drawn


def test_it_is_what_bluesky_s_magics_take():
    assert isinstance(ScanProgressBar(), ProgressBarManager)
