"""Any artifact of a bundle against the float64 reference."""
