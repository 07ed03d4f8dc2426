"""A log that strangers write to stays short, and shows what they send as text."""

import io
import logging

import pytest
from fake_clock import set_clock

from live4d_ophyd.checks import printable
from live4d_ophyd.log_limits import LONGEST, NotTooOften, SafeFormatter


@pytest.fixture
def logged():
    """A logger of its own, and what it wrote."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    handler.addFilter(NotTooOften(burst=3, rate=1.0))
    log = logging.Logger("stranger")
    log.addHandler(handler)
    return log, out


def test_one_place_logs_a_few_at_once_and_then_seldom_and_says_what_it_left_out(logged, monkeypatch):
    log, out = logged
    now = [100.0]
    set_clock(monkeypatch, "live4d_ophyd.log_limits", lambda: now[0])

    def flood(count):
        for n in range(count):
            log.warning("start %d", n)

    flood(1000)
    assert len(out.getvalue().splitlines()) == 3
    log.warning("another place")
    now[0] += 1.5
    flood(1000)
    assert out.getvalue().splitlines()[3:] == [
        "WARNING another place", "WARNING start 0 (997 more of these were left out)",
    ]  # fmt: skip


def test_a_line_is_short_and_has_no_control_characters(logged):
    log, out = logged
    log.warning("%s", "\x1b[2J\x1b]0;root\x07 a\nb \u202e" + "x" * 10_000_000)
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.strip().isprintable()
    assert len(text) < LONGEST + 100


def test_a_traceback_keeps_its_lines_and_loses_its_control_characters(logged):
    log, out = logged
    try:
        raise ValueError("\x1b[2J" + "x" * 1_000_000)
    except ValueError:
        log.exception("failed")
    assert len(out.getvalue().splitlines()) > 2
    assert "\x1b" not in out.getvalue()
    assert len(out.getvalue()) < 2 * LONGEST


def test_text_that_is_fit_to_be_seen_stays_as_it_is():
    assert printable("12 µm, 5 Å") == "12 µm, 5 Å"
    assert printable("a\nb", keep="\n") == "a\nb"
