"""Figures of a slice that a medical physicist measures: noise, size, dose, checks of the image."""

from clinreadnet.physics.figures import SliceFigures, measure_figures, with_dose

__all__ = ["SliceFigures", "measure_figures", "with_dose"]
