"""Measurements of the benchmarks: a module for each `bench/test_*.py`, and the candidates."""
