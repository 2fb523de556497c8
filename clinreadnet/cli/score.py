"""`clinreadnet score`."""

from __future__ import annotations

from clinreadnet.cli import options
from clinreadnet.cli.common import open_session, raise_failures
from clinreadnet.console import note, progress_bar, status
from clinreadnet.errors import CheckFailed, InputError


def score(
    paths: options.SlicePaths,
    bundle: options.Bundle = None,
    resample: options.Resample = False,
    csv: options.CsvFile = None,
    plot: options.PlotFile = None,
    html: options.HtmlFile = None,
    pdf: options.PdfFile = None,
    challenge_output: options.ChallengeFolder = None,
    sr: options.Reports = None,
    map: options.Maps = None,
    map_resolution: options.MapResolution = "patch",
    secondary_capture: options.Captures = None,
    backends: options.Backends = None,
    device: options.Device = 0,
    fastest: options.Fastest = False,
    budget: options.Budget = None,
    trusted_keys: options.TrustedKeys = None,
    not_before: options.NotBefore = None,
    precision: options.GraphPrecision = None,
    figures: options.Figures = False,
    site_map: options.SiteMapFile = None,
    limits: options.LimitsFile = None,
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
    from clinreadnet.cli.score_outputs import ScoreOutputs
    from clinreadnet.data.slices import any_readable, find_slices
    from clinreadnet.runtime.bundle.default import find_bundle
    from clinreadnet.scoring.breaches import with_limits
    from clinreadnet.scoring.protocol_limits import read_protocol_limits
    from clinreadnet.scoring.run import score_slices
    from clinreadnet.scoring.site_map import read_site_map, with_site_scores

    bundle = find_bundle(bundle)
    places = {"csv": csv, "plot": plot, "html": html, "pdf": pdf}
    places |= {"challenge_output": challenge_output}
    measured = figures or pdf is not None
    places |= {"sr": sr, "map": map, "secondary_capture": secondary_capture}
    outputs = ScoreOutputs(places, as_json=as_json, map_resolution=map_resolution)
    own = None if site_map is None else read_site_map(site_map, trusted_keys or None)
    site_limits = None if limits is None else read_protocol_limits(limits)
    if site_limits is not None:
        site_limits.check_figures(measured)
    left_out = 0

    def leave_out(where: object, error: InputError) -> None:
        nonlocal left_out
        if not keep_going:
            readable = any_readable(paths, resample=resample)
            hint = "; `keep_going` leaves it out" if readable else ""
            raise InputError(f"{error.full}{hint}")
        left_out += 1
        note(f"left out: {error}")

    with status("Reading headers"):
        refs = find_slices(
            paths, resample=resample, keep=outputs.keep, note=note, refused=leave_out
        )
    inputs = [*bundle.iterdir(), *(trusted_keys or ())]
    inputs += [path for path in (site_map, limits) if path is not None]
    outputs.check_slices(refs, inputs)
    session = open_session(
        bundle,
        backends,
        precision,
        device=device,
        fastest=fastest,
        budget=budget,
        trusted_keys=trusted_keys,
        not_before=not_before,
    )
    if session.verdict.reason:
        note(f"{session.backend}: {session.verdict.reason}")
    with session, progress_bar() as bar:
        if own is not None:
            own.check_weights(session.manifest.model.weights_sha256)
        task = bar.add_task("Scoring", total=len(refs))
        report = score_slices(
            session,
            refs,
            figures=measured,
            advance=lambda n: bar.advance(task, n),
            left_out=leave_out,
            note=note,
        )
    if own is not None:
        report = with_site_scores(report, own)
    if site_limits is not None:
        report = with_limits(report, site_limits)
    outputs.write(report, session)
    failures: list[Exception] = list(outputs.failures)
    if left_out:
        reason = f"{left_out} damaged and left out, {len(report.slices)} scored"
        failures.insert(0, CheckFailed(f"{reason}; the lines above say why"))
    raise_failures(failures)
    if report.limits is not None:
        report.limits.check()
