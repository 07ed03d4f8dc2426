"""What becomes of a detector whose engine is gone: the session disarms it, as the engine would have.

In a thread ``live4d-disarm``, as the detector may take long to answer.
"""

from __future__ import annotations

import logging
import threading

from live4d_ophyd.sources.dectris.claim import Claim
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError

log = logging.getLogger(__name__)


def disarm_for_lost_engine(control: Simplon) -> threading.Thread:
    """Leave the detector idle, unless another engine has it by now; the thread that does."""
    thread = threading.Thread(target=_disarm, args=(control,), name="live4d-disarm", daemon=True)
    thread.start()
    return thread


def _disarm(control: Simplon) -> None:
    claim = Claim(control.url)
    if not claim.acquire():
        log.info("%s: another engine has the detector by now: it is left as it is", control.url)
        return
    try:
        control.release()
    except SimplonError as error:
        log.error("the detector may still be armed: %s", error)
    finally:
        claim.release()
