"""Measure the machine: clocks, rates, rooflines and bounds of kernels."""
