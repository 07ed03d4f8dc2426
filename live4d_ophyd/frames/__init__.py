"""What frames are: compressed as they came and a table of them, their shape and dtype, why one has no numbers."""
