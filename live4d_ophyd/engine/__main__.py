"""`python -m live4d_ophyd.engine`: what a session starts as its engine."""

from live4d_ophyd.engine.commands import serve

serve()
