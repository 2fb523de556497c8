"""Measure the agreement of scores with labels and with known degradations."""
