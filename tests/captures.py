"""Where the messages captured from real detectors are: beside the checkout, when they are there at all."""

from pathlib import Path

import pytest

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "data" / "captures"
EIGER2_500K = CAPTURES / "eiger2_500k_bslz4_16bit"
EIGER2_16M = CAPTURES / "eiger2_16m_tickit"

needs_captures = pytest.mark.skipif(not CAPTURES.is_dir(), reason=f"no captured messages at {CAPTURES}")
