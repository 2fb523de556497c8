"""Regression cases: inputs of real archives and public reports that once failed."""
