"""``python -m live4d_ophyd.sim``: the command ``live4d sim``."""

from live4d_ophyd.sim.commands import sim

if __name__ == "__main__":
    sim(prog_name="live4d sim")
