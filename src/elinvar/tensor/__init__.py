"""Fused operations on torch tensors, with a memory budget that holds."""
