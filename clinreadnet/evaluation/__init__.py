"""Agreement of scores with labels, and with known degradations."""
