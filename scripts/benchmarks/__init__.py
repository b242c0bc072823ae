"""Benchmarks of speed and memory: ``python -m scripts.benchmarks runtime --help``."""
