"""The fixed parts of generated point-wise kernels; the rest is written by :mod:`elinvar.video.shadecode`."""
