"""Frames decoded on an NVIDIA GPU, by nvCOMP and kernels of our own in a CUDA stream of torch."""
