"""The timing of a row, and the candidates that are timed."""
