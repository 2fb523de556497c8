"""`clinreadnet score`."""

from __future__ import annotations

from clinreadnet.cli import options
from clinreadnet.cli.common import open_session, raise_failures
from clinreadnet.console import note, progress, status


def score(
    paths: options.SlicePaths,
    *,
    bundle: options.Bundle = None,
    resample: options.Resample = False,
    files: options.ScoreFiles,
    session_options: options.FullSessionArguments,
    figures: options.Figures = False,
    site: options.SiteFiles,
    keep_going: options.KeepGoing = False,
    as_json: options.Json = False,
) -> None:
    """Score slices from 0 (bad) to 4 (excellent). No reference image is needed.

    Folders are searched recursively. Localisers and files that are not CT slices are skipped with a
    note. A file that you name must be a CT slice. Several series get a mean each. A damaged slice
    ends the command with exit status 2 and no scores. If an output cannot be written, the scores
    are still printed, with the reason. With limits, the exit status is 4 if a series exceeds one.
    Research use only.

    Examples:
    - `clinreadnet score series/`
    - `clinreadnet score series/ --bundle bundle --csv scores.csv --plot scores.png`
    - `clinreadnet score series/ --figures --csv scores.csv`
    - `clinreadnet score series/ --figures --limits limits.toml`
    - `clinreadnet score series/ --pdf report.pdf`
    - `clinreadnet score 0000.tif 0001.tif --json`
    - `clinreadnet score stack.mha --challenge-output output`
    - `clinreadnet score series/ --html series.html --fastest --budget 2e-2`
    - `clinreadnet score series/ --sr reports --map maps --secondary-capture captures`
    - `clinreadnet score series/ --map maps --map-resolution slice`
    - `clinreadnet score series/ --site-map site-map.json`
    - `clinreadnet score series/ --trusted-key vendor.pub.pem --backend onnxruntime-cpu`
    """
    from clinreadnet.cli.damaged import DamagedSlices
    from clinreadnet.cli.score_outputs import ScoreOutputs
    from clinreadnet.data.slices import find_slices
    from clinreadnet.runtime.bundle.default import find_bundle
    from clinreadnet.scoring.run import score_slices

    bundle = find_bundle(bundle)
    outputs = ScoreOutputs(files, as_json=as_json)
    figures = figures or files.pdf is not None
    rules = site.read(session_options.trusted_keys)
    rules.check(figures=figures)
    damaged = DamagedSlices(paths, resample=resample, keep_going=keep_going)
    with status("Reading headers"):
        refs = find_slices(
            paths, resample=resample, keep=outputs.keep, note=note, refused=damaged.leave_out
        )
    inputs = [*bundle.iterdir(), *(session_options.trusted_keys or ()), *site.paths]
    outputs.check_slices(refs, inputs)
    with open_session(bundle, session_options) as session:
        if session.verdict.reason:
            note(f"{session.backend}: {session.verdict.reason}")
        with progress("Scoring", len(refs)) as advance:
            report = score_slices(
                session,
                refs,
                figures=figures,
                rules=rules,
                advance=advance,
                left_out=damaged.leave_out,
                note=note,
            )
    outputs.write(report, session)
    raise_failures([*damaged.failures(len(report.slices)), *outputs.failures])
    if report.limits is not None:
        report.limits.check()
