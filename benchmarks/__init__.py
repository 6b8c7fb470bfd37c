"""Benchmarks of the claims in the README: ``python -m benchmarks --help``."""
