"""Write the report as a self-contained HTML page or as JSON."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.report.figures import KINDS, arrivals, latency_accuracy, roofline, throughput
from bench.report.recommend import Recommendation, parse_budget, recommend
from bench.report.tables import (
    NOT_MEASURED,
    Table,
    arrivals_table,
    artifacts_table,
    cold_start_table,
    end_to_end_table,
    energy_table,
    largest_rate,
    network_table,
    ops_table,
    peers_table,
)
from bench.results import RecordedRun, newest_runs
from clinreadnet.errors import CheckFailed, InputError, shell_word
from clinreadnet.files import check_output, whole_file
from clinreadnet.runtime.bundle.files import load_manifest, read_listed
from clinreadnet.runtime.bundle.manifest import Manifest, listed_files
from clinreadnet.spec import RESEARCH_USE

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d5dae0; --note: #57606a;
  --best: #1a7f37; --ours: #0550ae; --peer: #bc4c00; --reference: #57606a; --limit: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d;
  --note: #9198a1; --best: #7ee787; --ours: #79c0ff; --peer: #ffa657; --reference: #b1bac4;
  --limit: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; }
p.note, figcaption span { color: var(--note); }
.choice { border-left: 4px solid var(--best); padding: .2rem .8rem; margin: 1rem 0; }
.choice.none { border-color: var(--peer); }
.choice h2 { margin: .3rem 0; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--faint); text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { overflow-wrap: normal; }
@media (max-width: 44rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { border-top: 2px solid var(--faint); padding: .3rem 0; }
  td { border: 0; padding: .05rem 0 .05rem 9.5rem; min-height: 1.4em; position: relative; }
  td::before { content: attr(data-head); position: absolute; left: 0; width: 9rem;
    color: var(--note); }
}
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr));
  gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; max-width: 38rem; height: auto; font-size: 12.5px; }
svg text { fill: var(--note); }
svg text.name { stroke: var(--paper); stroke-width: 3px; paint-order: stroke; }
svg text.name.best { font-weight: 700; }
.grid { stroke: var(--faint); fill: none; } .line { stroke-width: 2; fill: none; }
.leader { stroke: var(--note); stroke-width: .5; fill: none; }
""" + "\n".join(
    f".{kind} {{ stroke: var(--{kind}); }} .dot.{kind} {{ fill: var(--{kind}); }} "
    f"svg text.name.{kind} {{ fill: var(--{kind}); }}"
    for kind in KINDS
)


def check_bundle(bundle: str | os.PathLike[str]) -> Manifest:
    """Check the files and the verification of a bundle; return its manifest.

    Raises:
        InputError: the bundle is missing or damaged, or a file differs from the manifest.
        CheckFailed: the bundle has not passed verification.
    """
    manifest = load_manifest(bundle)
    for listed in listed_files(manifest):
        read_listed(bundle, listed)
    if not manifest.verified:
        raise CheckFailed(
            f"{bundle}: the bundle is not verified; run `clinreadnet verify {shell_word(bundle)}`"
        )
    return manifest


class DeploymentReport:
    """Measurements of all machines and the artifacts of a bundle.

    Attributes:
        manifest: manifest of the bundle.
        runs: newest run of each machine.
        recommendations: recommendation for each run.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        results: str | os.PathLike[str],
        *,
        budget: str,
        machine: str | None = None,
    ) -> None:
        """Read the runs and the bundle.

        Args:
            bundle: folder of `clinreadnet export`.
            results: folder of recorded runs.
            budget: budget in the form of `parse_budget`.
            machine: folder name of a single machine; default all.

        Raises:
            InputError: results are missing or invalid, the budget is invalid, or the bundle is
                damaged.
            CheckFailed: the bundle is not verified.
        """
        parse_budget(budget)
        self.manifest = check_bundle(bundle)
        self.runs: Sequence[RecordedRun] = newest_runs(results, machine)
        self._inputs = [*Path(bundle).iterdir(), *(run.path for run in self.runs)]
        self.recommendations = [recommend(run, self.manifest, budget) for run in self.runs]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``--json``."""
        return {
            "model": asdict(self.manifest.model),
            "machines": [
                {
                    "machine": run.machine,
                    "hardware": run.hardware,
                    "commit": run.commit,
                    "file": run.path.as_posix(),
                    "rates": dict(run.rates),
                    "rows": [row.to_json() for row in run.rows],
                    "recommendation": asdict(chosen),
                }
                for run, chosen in zip(self.runs, self.recommendations, strict=True)
            ],
            "research_use": RESEARCH_USE,
        }

    def html(self) -> str:
        """Return the HTML page."""
        model = self.manifest.model
        body = ["<h1>ClinReadNet: what to deploy</h1>"]
        for chosen in self.recommendations:
            body.append(_answer(chosen, self.manifest))
        body += [
            f"<p>{_text(RESEARCH_USE)}</p>",
            f"<p>Network <b>{_text(model.preset)}</b>, {model.parameters:,} parameters, weights "
            f"<code>{model.weights_sha256[:12]}</code>; bundle of {_text(self.manifest.created)}, "
            f"clinreadnet {_text(self.manifest.clinreadnet_version)}.</p>",
        ]
        for run, chosen in zip(self.runs, self.recommendations, strict=True):
            body += _machine(run, chosen)
        body += [
            "<h2>Artifacts of the bundle</h2>",
            f"<p>{_text(_domain(self.manifest))}</p>",
            artifacts_table(self.manifest).html(),
        ]
        if not any("gpu" in run.document["machine_info"] for run in self.runs):
            body += ["<h2>GPU</h2>", f"<p>{NOT_MEASURED}</p>"]
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>ClinReadNet: what to deploy</title>\n<style>{_STYLE}</style>\n</head>\n"
            "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
        )

    def write(self, out: str | os.PathLike[str]) -> None:
        """Write the page atomically.

        Raises:
            InputError: ``out`` cannot be written, or is a file of the bundle or of the results.
        """
        check_output(out, inputs=self._inputs)
        page = self.html()
        try:
            with whole_file(out) as temporary:
                temporary.write_text(page, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{Path(out)}: cannot be written ({error.strerror})") from None


def _answer(chosen: Recommendation, manifest: Manifest) -> str:
    """Return the recommendation for a machine, with the reasons against faster artifacts."""
    where = _text(chosen.machine)
    if chosen.best is None:
        parts = [f"<h2>{where}: nothing measured is within {_text(chosen.budget)}</h2>"]
    else:
        row = chosen.best.row
        marks = f" Marks: {', '.join(row.marks)}." if row.marks else ""
        parts = [
            f"<h2>Deploy {_text(row.title)} on {where}</h2>",
            f"<p><code>{_text(str(row.artifact))}</code>: {_text(chosen.best.measures())}, within "
            f"the budget {_text(chosen.budget)}.{_text(marks)}</p>",
        ]
    if chosen.refused:
        rows = tuple(
            (item.row.title, f"{1e3 * item.row.p50:.3g}", item.reason or "")
            for item in chosen.refused
        )
        what = "Faster, and why not" if chosen.best else "What was measured, and why not"
        parts += [f"<p>{what}:</p>", Table(("backend", "ms a slice", "why not"), rows).html()]
    if chosen.missing:
        held = dict.fromkeys(item.precision for item in manifest.artifacts)
        flags = " ".join(f"--precision {item}" for item in held | dict.fromkeys(chosen.missing))
        parts.append(
            "<p>Export the missing precisions to have them verified and considered: "
            f"<code>clinreadnet export --out bundle {_text(flags)} --force</code>, then "
            "<code>make bench-record report</code>.</p>"
        )
    return f'<div class="choice{"" if chosen.best else " none"}">{"".join(parts)}</div>'


def _machine(run: RecordedRun, chosen: Recommendation) -> list[str]:
    info = run.document["machine_info"]
    dirty = (
        ", with changes that were not committed" if run.document["commit_info"].get("dirty") else ""
    )
    packages = ", ".join(f"{name} {version}" for name, version in info.get("packages", {}).items())
    rates = ", ".join(
        f"{name} {rate / 1e9:.1f} {'GB/s' if name == 'copy' else 'GFLOP/s'}"
        for name, rate in run.rates.items()
    )
    return [
        f"<h2>{_text(run.called)}</h2>",
        f'<p class="note">Recorded {_text(str(run.document.get("datetime", ""))[:10])} at commit '
        f"<code>{run.commit[:7]}</code>{dirty}; {_text(packages)}. "
        f"Measured at the start: {_text(rates or 'nothing')}.</p>",
        f'<div class="figures">{latency_accuracy(run, chosen)}{throughput(run, chosen)}'
        f"{roofline(run, chosen)}{arrivals(run)}</div>",
        '<p class="note">Green: the artifact to deploy; blue: other artifacts; orange: what a user '
        "would take instead; grey: the network in PyTorch. Bars are 95 % intervals.</p>",
        "<h3>Every row</h3>",
        network_table(run.rows).html(),
        "<h3>Against alternatives</h3>",
        peers_table(run.rows).html(),
        *([] if run.gpu is None else ["<h3>Energy and memory</h3>", energy_table(run.rows).html()]),
        "<h3>Arrivals</h3>",
        arrivals_table(run).html(),
        f"<p>{_text(largest_rate(run))}</p>",
        "<h3>Cold start</h3>",
        cold_start_table(run).html(),
        "<h3>Files to scores</h3>",
        end_to_end_table(run).html(),
        "<h3>Ops</h3>",
        ops_table(run).html(),
    ]


def _domain(manifest: Manifest) -> str:
    """Return a sentence about which slices count as novel."""
    if manifest.unjudged is not None:
        return f"Domain: {manifest.unjudged}."
    threshold = manifest.model.novelty_threshold
    return f"A slice with novelty above {threshold:.4g} is marked as novel: out of domain."


def _text(value: str) -> str:
    return html.escape(value)
