"""Abdomen-like phantoms."""
