"""Reading, simulating and writing CT slices."""
