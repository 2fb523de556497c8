"""Windowed multi-temperature attention."""
