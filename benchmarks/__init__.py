"""Side-by-side measurements, each one command: `live4d bench NAME`."""
