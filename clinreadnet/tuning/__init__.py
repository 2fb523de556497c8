"""Tune launch configurations of the kernels on this machine's GPU."""
