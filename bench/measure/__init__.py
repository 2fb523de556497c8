"""How a row is timed, and what is timed."""
