"""Compare the artifacts of a bundle with the float64 reference."""
