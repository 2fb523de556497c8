"""A log of the world: inputs of real archives and public reports that once failed."""
