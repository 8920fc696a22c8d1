"""Benchmarks shipped with the package: `elinvar bench copy` works without a checkout."""
