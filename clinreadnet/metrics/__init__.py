"""Measures: of agreement, of distributions over grades, and of numerical error."""

from clinreadnet.metrics.bootstrap import Interval, bootstrap
from clinreadnet.metrics.correlation import Correlations, correlations, krocc, plcc, srocc
from clinreadnet.metrics.error import relative_error
from clinreadnet.metrics.grades import coverage, covered, grade_interval, likert_probabilities

__all__ = [
    "Correlations",
    "Interval",
    "bootstrap",
    "correlations",
    "coverage",
    "covered",
    "grade_interval",
    "krocc",
    "likert_probabilities",
    "plcc",
    "relative_error",
    "srocc",
]
