"""The two pages in a bundle agree with the manifest and fetch nothing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.tiny_bundle import write_bundle

from clinreadnet.runtime.bundle.files import load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.verify.pages import PARITY_NAME, README_NAME, parity_page, readme, write_pages
from clinreadnet.verify.record import record
from clinreadnet.verify.run import verify_golden


class Tags(HTMLParser):
    """A parser that records the open and all seen elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made(tmp_path: Path) -> tuple[Path, Manifest]:
    bundle = write_bundle(tmp_path / "bundle")
    return bundle, load_manifest(bundle)


def test_the_page_separates_parity_from_agreement_with_labels(tmp_path: Path) -> None:
    _, manifest = made(tmp_path)
    first = manifest.artifacts[0]
    assert first.parity is not None
    metrics = {n: {"value": 0.9, "low": 0.8, "high": 0.95} for n in ("PLCC", "SROCC", "KROCC")}
    measured = dataclasses.replace(
        first.parity, details={"reference_metrics": metrics}, metric_difference={"PLCC": 3e-5}
    )
    changed = dataclasses.replace(
        manifest,
        artifacts=(dataclasses.replace(first, parity=measured), *manifest.artifacts[1:]),
    )
    page = parity_page(changed)
    parity, accuracy = page.split("Does the network agree with its labels?")
    assert "golden slices" in parity and "PLCC" not in parity
    assert "Not parity" in accuracy and "simulated radiologists" in accuracy
    assert "0.900 [0.800, 0.950]" in accuracy and "more than 3e-05" in accuracy
    assert "onnxruntime-cpu" in parity and "Research use only" in parity
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and "script" not in tags.seen
    assert not re.search(r"https?://", page)


@pytest.mark.parametrize("metrics", [None, [], {"PLCC": 1}, {"PLCC": {"value": None}}])
def test_details_of_another_form_are_undefined(tmp_path: Path, metrics: object) -> None:
    _, manifest = made(tmp_path)
    first = manifest.artifacts[0]
    assert first.parity is not None
    odd = dataclasses.replace(first.parity, details={"reference_metrics": metrics}, budget=0.0)
    changed = dataclasses.replace(manifest, artifacts=(dataclasses.replace(first, parity=odd),))
    assert parity_page(changed).count("undefined") == 3


@pytest.mark.usefixtures("without_openvino")  # it does not load this graph of a few operators
def test_a_record_renews_both(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", precisions=("fp32",))
    manifest = load_manifest(bundle)
    record(verify_golden(bundle, manifest), manifest)
    renewed = load_manifest(bundle)
    assert (bundle / PARITY_NAME).read_text() == parity_page(renewed) != parity_page(manifest)
    assert (bundle / README_NAME).read_text() == readme(renewed)


def test_artifacts_that_were_not_run_are_listed_apart(tmp_path: Path) -> None:
    _, manifest = made(tmp_path)
    waiting = dataclasses.replace(manifest.artifacts[0], parity=None, records=())
    changed = dataclasses.replace(manifest, artifacts=(waiting, *manifest.artifacts[1:]))
    assert "Not run yet" in parity_page(changed) and "| not run yet |" in readme(changed)
    assert "Not run yet" not in parity_page(manifest)


def test_a_failure_is_reported_in_both(tmp_path: Path) -> None:
    _, manifest = made(tmp_path)
    first = manifest.artifacts[0]
    assert first.parity is not None
    bad = dataclasses.replace(
        first.parity,
        status="failed",
        reason="score <off>",
        relative_error={"score": 1.0},
        budget=1e-5,
    )
    changed = dataclasses.replace(
        manifest,
        verified=False,
        artifacts=(dataclasses.replace(first, parity=bad), *manifest.artifacts[1:]),
    )
    page = parity_page(changed)
    assert "Not verified" in page and "score &lt;off&gt;" in page and "width:100%" in page
    assert "Do not deploy it" in readme(changed) and "failed: onnxruntime-cpu" in readme(changed)


def test_names_from_a_manifest_are_text_on_the_page(tmp_path: Path) -> None:
    bundle, manifest = made(tmp_path)
    odd = dataclasses.replace(manifest, clinreadnet_version="<b>1</b>")
    write_manifest(odd, bundle)
    write_pages(bundle)
    assert "&lt;b&gt;1&lt;/b&gt;" in (bundle / PARITY_NAME).read_text()
    assert (bundle / README_NAME).read_text().startswith("# A ClinReadNet bundle")
