"""`clinreadnet plan-readers`."""

from __future__ import annotations

from typing import Annotated

import typer

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Json


def plan_readers(
    half_width: Annotated[
        float, typer.Option(help="Half-width of the intervals of ICC and correlation.")
    ] = 0.1,
    agreement: Annotated[float, typer.Option(help="Expected ICC of single readers.")] = 0.5,
    correlation: Annotated[
        float, typer.Option(help="Expected correlation of the score with an exact grade.")
    ] = 0.8,
    slices_per_patient: Annotated[
        int, typer.Option(help="Slices of each patient that are read.")
    ] = 1,
    within_patient: Annotated[
        float, typer.Option(help="Correlation of the slices of a patient.")
    ] = 0.5,
    as_json: Json = False,
) -> None:
    """Compute how many slices and readers `agree` needs, before anyone reads.

    For 2 to 10 readers: the slices that give 95 % intervals of a half-width, for the agreement of
    the readers (Bonett 2002) and for the correlation of score and mean grade (Fisher). Research use
    only.

    Examples:
    - `clinreadnet plan-readers`
    - `clinreadnet plan-readers --half-width 0.05 --agreement 0.4 --slices-per-patient 3 --json`
    """
    from clinreadnet.readers.plan import plan_readers as plan
    from clinreadnet.readers.plan import print_plan

    result = plan(
        half_width,
        agreement=agreement,
        correlation=correlation,
        slices_per_patient=slices_per_patient,
        within_patient=within_patient,
    )
    print_result(result, as_json, print_plan)
