"""The commands of `clinreadnet`, in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from clinreadnet._version import __version__
from clinreadnet.cli import (
    ablate,
    agree,
    calibrate,
    check_graph,
    check_kernels,
    doctor,
    evaluate,
    evaluate_order,
    export,
    export_kernels,
    export_triton_server,
    fit_site_map,
    inspect,
    listen,
    plan_readers,
    score,
    score_archive,
    sign,
    simulate,
    spool,
    summarize,
    train,
    tune,
    verify,
)
from clinreadnet.cli.command import Command
from clinreadnet.cli.groups import flatten
from clinreadnet.spec import RESEARCH_USE

app = typer.Typer(
    name="clinreadnet",
    help=f"""Predict quality scores (0 bad ... 4 excellent) for low-dose CT slices, without a
reference image.

Score slices with a bundle, or make a verified bundle from a checkpoint.

{RESEARCH_USE}
""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# In the order of `clinreadnet --help`.
_GROUPS = {
    "Deploy": (
        export.export,
        verify.verify,
        inspect.inspect,
        sign.sign,
        check_graph.check_graph,
        export_kernels.export_kernels,
        check_kernels.check_kernels,
        export_triton_server.export_triton_server,
        doctor.doctor,
    ),
    "Score": (
        score.score,
        score_archive.score_archive,
        summarize.summarize,
        plan_readers.plan_readers,
        agree.agree,
        fit_site_map.fit_site_map,
        listen.listen,
        spool.spool,
    ),
    "Measure": (
        evaluate.evaluate,
        evaluate_order.evaluate_order,
        tune.tune,
    ),
    "Train": (simulate.simulate, train.train, calibrate.calibrate, ablate.ablate),
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


for _group, _commands in _GROUPS.items():
    for _command in _commands:
        app.command(cls=Command, rich_help_panel=_group)(flatten(_command))
