"""Mean and deviation of tokens by regions."""
