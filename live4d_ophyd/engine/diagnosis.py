"""What a series that is over has to say: why no image came, and what was wrong with those that did."""

from __future__ import annotations

import logging

from live4d_ophyd.engine.ledger import Ledger
from live4d_ophyd.engine.series import Series
from live4d_ophyd.engine.spec import AcquisitionSpec

log = logging.getLogger(__name__)


def report(spec: AcquisitionSpec, series: Series, ledger: Ledger) -> None:
    """Log what is known only at the end."""
    for reason, count in series.reasons.items():
        if count > 1:  # one was said when it came
            log.warning("series %s: %d bad: %s", series.name, count, reason)
    if ledger.beyond:
        log.warning(
            "series %s: %d images with ids beyond the %d that %d x %d positions need were left alone; "
            "does the scan grid match the microscope's scan?",
            series.name, ledger.beyond, spec.frames, *spec.grid.shape,
        )  # fmt: skip


def why_nothing_came(spec: AcquisitionSpec, series: Series, ledger: Ledger, connected: bool) -> str:
    """One text for the error; ``connected``: whether the stream's address answers."""
    waited = f"within {spec.timeout:g} s"
    if series.reasons:
        reason, count = series.reasons.most_common(1)[0]
        return f"no image of series {series.name} could be used; {count} were refused: {reason}"
    if series.projection.contradiction:
        return f"series {series.name} brought no image that could be used {waited}: {series.projection.contradiction}"
    if ledger.beyond:
        return (
            f"series {series.name} brought only image ids beyond the {spec.frames} of the grid: "
            "does the scan grid match the microscope's scan?"
        )
    if series.key is not None:
        ended = "ended without an image" if series.ended else f"brought no image {waited}"
        return f"series {series.name} {ended}: is the scan running, and triggering the detector?"
    if ledger.strangers:
        return (
            f"{ledger.strangers} images of other series came from {spec.endpoint} but no series began {waited}: "
            "the start message was missed (connect before arming), or another client took it"
        )
    if not connected:
        return f"nothing answers at {spec.endpoint} {waited}: is the detector (or the simulator) on?"
    return f"{spec.endpoint} answers but no series began {waited}: arm the detector, or pass control=Simplon(...)"
