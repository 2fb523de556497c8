"""The report: one self-contained HTML page, and the same as JSON."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.report.figures import COLOURS, arrivals, latency_accuracy, roofline, throughput
from bench.report.recommend import Recommendation, parse_budget, recommend
from bench.report.tables import (
    NOT_MEASURED,
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
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.files import check_output, whole_file
from clinreadnet.runtime.bundle.manifest import Manifest, listed_files, load_manifest, read_listed
from clinreadnet.spec import RESEARCH_USE

_STYLE = (
    """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d5dae0; --note: #57606a;
  --c0: #0550ae; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #0c7d88;
  --c6: #7d4e00; --c7: #57606a; --c8: #a40e26; --c9: #24292f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d;
  --note: #9198a1; --c0: #79c0ff; --c1: #ffa657; --c2: #7ee787; --c3: #d2a8ff; --c4: #ff9bce;
  --c5: #76e3ea; --c6: #e3b341; --c7: #b1bac4; --c8: #ff7b72; --c9: #f0f6fc; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; }
p.note { color: var(--note); }
.choice { border-left: 4px solid var(--c2); padding: .2rem .8rem; }
.choice.none { border-color: var(--c1); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--faint); text-align: left;
  white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
  gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--note); }
.grid { stroke: var(--faint); fill: none; } .line { stroke-width: 2; fill: none; }
figure ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .1rem 1rem; font-size: .8rem; }
figure li::before { content: ""; display: inline-block; width: .7rem; height: .7rem;
  margin-right: .35rem; border-radius: 50%; background: currentColor; }
.limit { stroke: var(--note); stroke-dasharray: 5 4; } li.limit { color: var(--note); }
"""
    + "\n".join(
        f".c{i} {{ stroke: var(--c{i}); color: var(--c{i}); }} .dot.c{i} {{ fill: var(--c{i}); }}"
        for i in range(COLOURS)
    )
    + """
.dot.hollow { fill: var(--paper); stroke-width: 2; } .line.hollow { stroke-dasharray: 2 3; }
figure li.hollow::before { box-sizing: border-box; background: none; border: 2px solid; }
"""
)


def check_bundle(bundle: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a bundle after a check of its files and its verification.

    Raises:
        InputError: the bundle is missing or damaged, or a file is not the listed one.
        CheckFailed: the bundle has not passed verification.
    """
    manifest = load_manifest(bundle)
    for listed in listed_files(manifest):
        read_listed(bundle, listed)
    if not manifest.verified:
        raise CheckFailed(
            f"{bundle}: the bundle is not verified; run `clinreadnet verify {bundle}`"
        )
    return manifest


class DeploymentReport:
    """The measurements of each machine, with one bundle.

    Attributes:
        manifest: manifest of the bundle.
        runs: newest recorded run of each machine.
        recommendations: one for each run.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        results: str | os.PathLike[str],
        *,
        budget: str,
        machine: str | None = None,
    ) -> None:
        """Read the runs and the bundle; nothing is written.

        Args:
            bundle: folder made by `clinreadnet export`.
            results: folder of recorded runs.
            budget: budget in the form of `parse_budget`.
            machine: folder of the only machine to report; default all.

        Raises:
            InputError: no results, unusable results, an invalid budget, or a damaged bundle.
            CheckFailed: the bundle is not verified.
        """
        parse_budget(budget)
        self.manifest = check_bundle(bundle)
        self.runs: Sequence[RecordedRun] = newest_runs(results, machine)
        self._inputs = [*Path(bundle).iterdir(), *(run.path for run in self.runs)]
        self.recommendations = [recommend(run, self.manifest, budget) for run in self.runs]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
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
        """Return the whole page."""
        model = self.manifest.model
        body = [
            "<h1>ClinReadNet: deployment report</h1>",
            f"<p>{_text(RESEARCH_USE)}</p>",
            f"<p>Network <b>{_text(model.preset)}</b>, {model.parameters:,} parameters, weights "
            f"<code>{model.weights_sha256[:12]}</code>; bundle of {_text(self.manifest.created)}, "
            f"clinreadnet {_text(self.manifest.clinreadnet_version)}.</p>",
            "<h2>Artifacts</h2>",
            f"<p>{_text(_domain(self.manifest))}</p>",
            artifacts_table(self.manifest).html(),
        ]
        for run, chosen in zip(self.runs, self.recommendations, strict=True):
            body += _machine(run, chosen)
        if not any("gpu" in run.document["machine_info"] for run in self.runs):
            body += ["<h2>GPU</h2>", f"<p>{NOT_MEASURED}</p>"]
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>ClinReadNet: deployment report</title>\n<style>{_STYLE}</style>\n</head>\n"
            "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
        )

    def write(self, out: str | os.PathLike[str]) -> None:
        """Write the page atomically.

        Raises:
            InputError: ``out`` cannot be written, or is a file of the bundle or a recorded run.
        """
        check_output(out, inputs=self._inputs)
        page = self.html()
        try:
            with whole_file(out) as temporary:
                temporary.write_text(page, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{Path(out)}: cannot be written ({error.strerror})") from None


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
    lines = "".join(f"<p>{_text(line)}</p>" for line in chosen.lines())
    return [
        f"<h2>{_text(run.hardware)}</h2>",
        f'<p class="note">Recorded {_text(str(run.document.get("datetime", ""))[:10])} at commit '
        f"<code>{run.commit[:7]}</code>{dirty}; {_text(packages)}. "
        f"Measured at the start: {_text(rates or 'nothing')}.</p>",
        f'<div class="choice{"" if chosen.best else " none"}">{lines}</div>',
        f'<div class="figures">{latency_accuracy(run)}{throughput(run)}{roofline(run)}'
        f"{arrivals(run)}</div>",
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
    """Say which slices count as novel."""
    if manifest.unjudged is not None:
        return f"Domain: {manifest.unjudged}."
    threshold = manifest.model.novelty_threshold
    return f"A slice with novelty above {threshold:.4g} is marked as novel: out of domain."


def _text(value: str) -> str:
    return html.escape(value)
