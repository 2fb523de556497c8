"""Pages of the site that are not in docs/: README, the model card, one page for each public module.

MkDocs calls `on_config`, `on_files` and `on_page_markdown`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"README.md": "index.md", "clinreadnet/weights/small.md": "model-card.md"}
"""Pages that lie outside docs/, by their path in the repository, and where the site has them."""

PUBLIC = (
    "clinreadnet",
    "clinreadnet.runtime",
    "clinreadnet.errors",
    "clinreadnet.data.slices",
    "clinreadnet.data.ldctiqa",
    "clinreadnet.data.region",
    "clinreadnet.physics",
    "clinreadnet.simulator.simulate",
    "clinreadnet.training.config",
    "clinreadnet.kernels",
)
"""Modules with an API page: those that README, docs and examples name. Others are internal."""


def on_config(config: MkDocsConfig) -> None:
    """Add the API pages to the navigation."""
    assert config.nav is not None
    config.nav = [*config.nav, {"API": [{name: f"api/{name}.md"} for name in PUBLIC]}]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for source, target in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=relink(text, source)))
    for name in PUBLIC:
        content = f"::: {name}\n    options:\n      heading_level: 1\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files outside the site at the repository."""
    if page.file.generated_by is not None:
        return markdown
    return relink(markdown, f"docs/{page.file.src_uri}")


def relink(text: str, source: str) -> str:
    """Return a page with its links as the site needs them.

    Args:
        text: Markdown.
        source: its path in the repository.
    """

    def target(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if path in ELSEWHERE:
            return f"]({ELSEWHERE[path]}{anchor})"
        if path.startswith("docs/") and path.endswith((".md", ".png")):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"](https://github.com/clinreadnet/clinreadnet/blob/main/{path}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", target, text)
