"""`clinreadnet simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.options import Force
from clinreadnet.console import note, status
from clinreadnet.errors import InputError, counted
from clinreadnet.files import check_distinct, check_output
from clinreadnet.processor import processors


def simulate(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of slices. Default, with --anatomy: all."),
    ] = None,
    anatomy: Annotated[
        list[Path] | None,
        typer.Option(help="Routine-dose DICOM file or folder of your own to degrade; repeatable."),
    ] = None,
    any_part: Annotated[
        bool,
        typer.Option(
            "--any-part", help="With --anatomy: also degrade slices that show no abdomen."
        ),
    ] = False,
    variants: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --anatomy: views of each slice, with other fields of view and positions.",
        ),
    ] = 1,
    breadth: Annotated[
        str,
        typer.Option(
            help="standard, or wide: more denoisers, kernels, view counts, thicknesses and fields "
            "of view, and metal."
        ),
    ] = "standard",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    dicom: Annotated[
        bool,
        typer.Option(
            "--dicom",
            help="Write a CT series of one patient instead of labelled images; standard breadth.",
        ),
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Contact sheet to draw: .png, .pdf or .svg.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Device to project on: cpu, cuda, or auto for CUDA if there is a GPU."),
    ] = "cpu",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of processes. Default: one per processor.")
    ] = None,
    force: Force = False,
) -> None:
    """Simulate low-dose abdominal slices, labelled by simulated radiologists.

    Writes an LDCTIQA folder: image/0000.tif ..., train.json, simulation.json and tiles.npz (the
    quality of each 32x32 tile). Sixteen slices show one anatomy: four noise levels times three view
    counts, and four denoised copies. A slice takes some seconds of a core. Simulated, research use
    only.

    Examples:
    - `clinreadnet simulate --out data --count 1200 --seed 1 --preview sheet.png`
    - `clinreadnet simulate --out wide --count 1200 --seed 1 --breadth wide`
    - `clinreadnet simulate --out mine --anatomy routine-dose-series --variants 4`
    - `clinreadnet simulate --out series --count 24 --seed 1 --dicom`
    """
    with status("Importing the simulator"):
        from clinreadnet.data.slices import find_slices
        from clinreadnet.scoring.plot import check_plot
        from clinreadnet.simulator.preview import write_preview
        from clinreadnet.simulator.simulate import simulate_folder, simulate_series

    jobs = jobs or processors()
    check_distinct({"out": out, "preview": preview})
    if preview is not None:
        check_plot(preview)
        check_output(preview)
    if dicom:
        if anatomy or preview or count is None or breadth != "standard" or device != "cpu":
            raise InputError(
                "--dicom needs --count and excludes --anatomy, --preview, --breadth and --device"
            )
        simulate_series(out, count, seed, jobs=jobs, force=force)
        print(f"{out}: {counted(count, 'slice')} of a CT series")
        return
    scanned = find_slices(anatomy, note=note) if anatomy else []
    if preview is not None:
        check_output(preview, inputs={ref.path for ref in scanned})
    scores = simulate_folder(
        out,
        count,
        seed,
        scanned=scanned,
        variants=variants,
        device=device,
        breadth=breadth,
        any_part=any_part,
        jobs=jobs,
        force=force,
    )
    print(f"{out}: {len(scores)} labelled slices")
    if preview is not None:
        write_preview(out, preview)
