"""Focus and astigmatism of the simulated column, corrected by what parallax finds; `make long`: from ten starts."""

import numpy as np
import pytest
from bluesky import RunEngine
from how_many import LONG

from live4d_ophyd import Calibration, Disk, Live4D, Parallax, ScanGrid, Simplon
from live4d_ophyd.plans import correct_astigmatism, correct_defocus
from live4d_ophyd.sim import SimMicroscope, SimulatorProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

STARTS = 10 if LONG else 1
SIDE, TARGET = 48, 80.0  # nm, as defocus


def test_it_ends_in_focus_without_astigmatism_wherever_it_began(capsys):
    rng = np.random.default_rng(5)
    engine = RunEngine({}, call_returns_result=True)
    with SimulatorProcess(rows=SIDE, cols=SIDE, rate=20e3, shape="64x64") as simulator:
        microscope = SimMicroscope(simulator.rest_url, name="microscope")
        truth = microscope.truth
        live4d = Live4D(
            simulator.stream_endpoint,
            name="live4d",
            scan=ScanGrid(SIDE, SIDE, step=simulator.step_nm, unit="nm"),
            methods=[Disk("vbf", radius=10), Parallax("parallax", rotation=0.0, enabled=False)],
            control=Simplon(simulator.rest_url),
            calibration=Calibration(tuple(truth["bf_center"]), truth["bf_radius"], truth["mrad_per_px"]),
            backend="cpu",
        )
        for _ in range(STARTS):
            microscope.defocus.put(rng.uniform(-150, 150))
            microscope.astigmatism.put(rng.uniform(5, 25))
            microscope.astigmatism_angle.put(rng.uniform(-90, 90))
            focus = engine(correct_defocus(live4d, microscope.defocus, 90, target=TARGET)).plan_result
            left = engine(
                correct_astigmatism(live4d, microscope.stigmator_a, microscope.stigmator_b, 4)
            ).plan_result
            # the true values; C12 is in nm there, in A here
            assert abs(focus) < 5
            assert microscope.defocus.get() == pytest.approx(focus + TARGET)
            assert microscope.astigmatism.get() < 2
            assert left == pytest.approx(10 * microscope.astigmatism.get(), abs=10)
        live4d.close()
        microscope.destroy()
    said = capsys.readouterr().out
    assert said.count("is in focus; it is at") == said.count("C12 is ") == STARTS
