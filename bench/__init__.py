"""Benchmarks: `pytest bench/`, recorded runs, and the tables made from them."""
