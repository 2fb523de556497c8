"""How far an artifact's outputs may be from the float64 reference, by precision.

One table, used by the exporter's verification and by the start-up self-test of a `Session`.
"""

from __future__ import annotations

BUDGETS = {
    "fp32": 1e-5,
    "tf32": 1e-3,
    "fp16": 5e-3,
    "bf16": 3e-2,
    "int8": 5e-2,
    "fp8": 5e-2,
}
"""Largest ``relative_error`` accepted for every output, by precision."""
