"""The tables behind `elinvar.testing.metal_cases`."""
