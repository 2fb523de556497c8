"""Two pages for whoever receives a bundle: `README.md` and `parity.html`.

They say what the manifest says. No program reads them, and no signature covers them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clinreadnet.files import whole_file
from clinreadnet.page import page, table, text
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.inspect import Entry, entries, megabytes, worst
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, Parity
from clinreadnet.spec import RESEARCH_USE
from clinreadnet.verify.compare import METRICS
from clinreadnet.verify.report import SIMULATED_LABELS, number

README_NAME = "README.md"
PARITY_NAME = "parity.html"

_DECADES = 3
"""Powers of ten below its budget over which an error's bar extends."""


def write_pages(bundle: Path) -> None:
    """Write both pages into the folder of a bundle, from the manifest there."""
    manifest = load_manifest(bundle)
    for name, content in ((README_NAME, readme(manifest)), (PARITY_NAME, parity_page(manifest))):
        with whole_file(bundle / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def readme(manifest: Manifest) -> str:
    """Return `README.md`."""
    rows = "\n".join(
        f"| `{e.file}` | {e.kind}, {e.precision} | {megabytes(e.size)} | {e.runs_on} | "
        f"{e.verified} | {worst(e)} |"
        for e in entries(manifest)
    )
    state = (
        "Every file that the exporting machine could run passed its checks."
        if manifest.verified
        else "**A check failed. Do not deploy it.** The manifest names the check."
    )
    return f"""# A ClinReadNet bundle

It predicts the mean quality score of five radiologists, 0 (bad) to 4 (excellent), for abdominal CT
slices. {RESEARCH_USE} Made {manifest.created} by clinreadnet {manifest.clinreadnet_version} from
weights {manifest.model.weights_sha256[:12]} (preset {manifest.model.preset}).

{state} [{PARITY_NAME}]({PARITY_NAME}) shows the errors.

| file | what | size | for | verified by | largest error / budget |
|---|---|---|---|---|---|
{rows}

`{manifest.golden.file}` holds {manifest.golden.slices} slices with the reference's outputs. A
session runs some of them before it scores. `manifest.json` lists the SHA-256 of every file.

    pip install clinreadnet
    clinreadnet inspect .              # compares every file with the manifest
    clinreadnet score series/ --bundle .
    clinreadnet verify .               # runs every file again that this machine can run

"not run yet" means that no machine with the file's GPU has run it. There, `clinreadnet verify
--record` adds its result to the manifest and to these pages. The pages are for people: no program
reads them, and a signature of the bundle does not cover them.
"""


def parity_page(manifest: Manifest) -> str:
    """Return `parity.html`: one file, without scripts, that fetches nothing."""
    ran = [(a, run) for a in manifest.artifacts for run in a.runs]
    parts = [
        f"<p>Made {text(manifest.created)} by clinreadnet {text(manifest.clinreadnet_version)} "
        f"from weights <code>{manifest.model.weights_sha256[:12]}</code>. "
        f"{'Verified.' if manifest.verified else '<b class=failed>Not verified.</b>'}</p>",
        "<h2>Do the files compute what the network computes?</h2>",
        "<p>Each file against the network in PyTorch, in float64, on "
        f"{manifest.golden.slices} golden slices. An error is ‖file − reference‖ / ‖reference‖ of "
        "an output, the largest of four. The bar is logarithmic: full at the budget, empty "
        f"{_DECADES} powers of ten below.</p>",
        table(
            (
                "file",
                "ran by",
                "error",
                "n:budget",
                "n:worst slice",
                "n:worst tile",
                "n:flips",
                "check",
            ),
            [_parity_row(artifact, parity) for artifact, parity in ran],
        ),
        "<p class=note>Worst slice and tile are in grades of 0 to 4. A flip is a slice that only "
        "one of file and reference finds in domain.</p>",
    ]
    if waiting := [e for e in entries(manifest) if not e.runs]:
        parts += ["<h2>Not run yet</h2>", table(("file", "for"), list(map(_waiting, waiting)))]
    if labelled := [run for _, run in ran if "reference_metrics" in run.details]:
        changes = [d for run in labelled for d in run.metric_difference.values() if d is not None]
        most = max(changes, default=None)
        parts += [
            "<h2>Does the network agree with its labels?</h2>",
            "<p>Not parity: how the reference's scores of the golden slices correlate with "
            f"{SIMULATED_LABELS}, with 95 % intervals over slices. No radiologist labelled them, "
            "and they are few."
            + ("" if most is None else f" No file changes a value by more than {number(most)}.")
            + "</p>",
            table(
                [f"n:{name}" for name in METRICS],
                [_intervals(labelled[0].details["reference_metrics"])],
            ),
        ]
    return page("parity of a bundle", "Parity of this bundle", "\n".join(parts))


def _parity_row(artifact: Artifact, parity: Parity) -> tuple[str, ...]:
    errors = [error for error in parity.relative_error.values() if error is not None]
    assert parity.ran_on is not None
    return (
        f"<code>{text(artifact.title)}</code>",
        f"<span>{text(parity.ran_on.backend)}<br><span class=note>"
        f"{text(parity.ran_on.hardware)}, {text(parity.ran_on.date[:10])}</span></span>",
        _bar(max(errors, default=None), parity.budget),
        number(parity.budget),
        number(parity.worst_score_difference),
        number(parity.worst_tile_difference),
        "" if parity.in_domain_flips is None else str(parity.in_domain_flips),
        parity.status
        if parity.status == "passed"
        else f"<span class=failed>{parity.status}</span> {text(parity.reason or '')}",
    )


def _waiting(entry: Entry) -> tuple[str, ...]:
    return f"<code>{text(entry.file)}</code>", text(entry.runs_on)


def _bar(error: float | None, budget: float | None) -> str:
    if error is None or not budget:
        return ""
    share = 1 + math.log10(error / budget) / _DECADES if error > 0 else 0.0
    width = min(max(share, 0.0), 1.0)
    failed = " class=failed" if error > budget else ""
    return (
        f"<span{failed}><span class=bar><i style='width:{width:.0%}'></i></span> {error:.0e}</span>"
    )


def _intervals(metrics: Any) -> list[str]:
    """Return the metrics of a record's details, whose form no schema checks, for a person."""
    shown = []
    for name in METRICS:
        try:
            metric = metrics[name]
            shown.append(f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]")
        except (KeyError, TypeError, ValueError):
            shown.append("undefined")
    return shown
