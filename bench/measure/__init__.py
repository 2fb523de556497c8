"""The machine: its clocks, its rates, its limits, and what bounds a kernel."""
