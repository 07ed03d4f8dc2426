"""Recorded frames: the file that they lie in, compressed as they came. Knows no detector and no engine."""
