"""Readers of a site: their grades, their agreement with each other and with the score."""
