"""`clinreadnet verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_result, write_each
from clinreadnet.cli.options import Device, Json
from clinreadnet.console import note, progress, status
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.files import check_output


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(help="LDCTIQA folder to verify on. Default: the bundle's golden slices."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="With --data: the bundle's checkpoint. Default: the shipped one."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot the artifacts' scores against the reference's (.png, .pdf, .svg)."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Add the records of this machine to the bundle's manifest."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(help="With --record: Ed25519 private key that signs the manifest again."),
    ] = None,
    device: Device = 0,
    as_json: Json = False,
) -> None:
    """Check the hash of each artifact, its error against the float64 reference, and its metrics.

    ONNX graphs run on the CPU, and on the GPU with onnxruntime-gpu. TensorRT engines run if this
    machine can load them; the others are hashed and listed as not run here. Exit status 1: a check
    failed; the table names it.

    Examples:
    - `clinreadnet verify bundle`
    - `clinreadnet verify bundle --record --key key.pem`
    - `clinreadnet verify bundle --data LDCTIQAG2023_test --plot parity.png --json`
    """
    if record and data is not None:
        raise InputError("--record uses the golden slices; omit --data")
    with status("Importing PyTorch"):
        from clinreadnet.data.ldctiqa import read_ldctiqa
        from clinreadnet.runtime.bundle.files import load_manifest
        from clinreadnet.runtime.bundle.sign import check_renewal
        from clinreadnet.runtime.inputs import check_device
        from clinreadnet.scoring.plot import check_plot
        from clinreadnet.verify.plot import write_parity
        from clinreadnet.verify.record import record as write_record
        from clinreadnet.verify.report import print_report
        from clinreadnet.verify.run import steps, verify_folder, verify_golden

    check_device(device)
    if plot is not None:
        check_output(plot)
        check_plot(plot)
    manifest = load_manifest(bundle)
    if record:
        if key is not None:
            check_renewal(bundle, key)
    slices = manifest.golden.slices if data is None else len(read_ldctiqa(data))
    with progress("Verifying", steps(manifest, slices, golden=data is None)) as advance:
        if data is None:
            report = verify_golden(bundle, manifest, advance, device)
        else:
            report = verify_folder(bundle, manifest, data, checkpoint, advance, device)

    def draw() -> None:
        if plot is not None and report.scores:
            write_parity(report.scores, "reference", plot)

    def write() -> None:
        if record:
            note(write_record(report, manifest, key))

    write_each(lambda: print_result(report, as_json, print_report, markup=True), draw, write)
    if not report.passed:
        raise CheckFailed(f"{bundle}: verification failed")
