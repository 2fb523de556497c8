"""Simulated low-dose slices: phantoms, scans, denoisers and simulated radiologists."""
