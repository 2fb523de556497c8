"""What each bench measures: one module for each `bench/test_*.py`, and the candidates."""
