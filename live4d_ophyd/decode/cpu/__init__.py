"""Frames decoded on CPU cores, by numba functions without the GIL."""
