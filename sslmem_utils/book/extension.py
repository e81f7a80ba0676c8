"""The Sphinx extension itself: executed notebooks in place of empty ones, tables of claims and of speeds."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import claims, paths
from ..errors import SpecError, SSLMemError
from ..wording import spelled
from . import downloads, editions, slides
from .building import PROFILE
from .copies import page, pages
from .paper import scorecard
from .sheets import text_pages
from .speeds import benchmarks, machines
from .verdicts import best, deciding, sources

MATHJAX = "tex-svg.js"


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx (listed in _config.yml under sphinx.extra_extensions)."""
    from docutils import nodes
    from sphinx import addnodes
    from sphinx.util.docutils import SphinxDirective, SphinxRole

    class Scorecard(SphinxDirective):
        """`{sslmem-scorecard}`: all claims."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname]["sslmem_scorecard"] = True
            text = scorecard(sources(os.environ.get(PROFILE, "")))
            return self.parse_text_to_nodes(text, allow_section_headings=True)

    class Benchmarks(SphinxDirective):
        """`{sslmem-benchmarks}`: measured speeds and rooflines."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname]["sslmem_benchmarks"] = True
            here = Path(self.env.doc2path(self.env.docname)).parent
            return self.parse_text_to_nodes(benchmarks(machines(), paths.BUILD / "bench", here))

    class Verdict(SphinxRole):
        """`{sslmem-verdict}`: the verdict on one claim by the largest committed profile, linked to its page."""

        def run(self) -> tuple[list[Any], list[Any]]:
            self.env.metadata[self.env.docname]["sslmem_scorecard"] = True
            try:
                profile, claim = best(self.text)
            except SSLMemError as error:
                return [], [self.inliner.reporter.warning(str(error), line=self.lineno)]
            where = {"refdomain": "std", "reftype": "doc", "reftarget": f"/notebooks/{claim.notebook}"}
            word = nodes.inline("", claims.status(claim))
            link = addnodes.pending_xref("", word, refdoc=self.env.docname, refexplicit=True, refwarn=True, **where)
            link = nodes.inline("", "", link, classes=[f"sslmem-{claim.verdict.replace(' ', '-')}"])
            one = deciding(claim)
            return [link, nodes.Text(f" ({spelled(one.name)}: {one.value}, {profile})")], []

    app.add_role("sslmem-verdict", Verdict())
    text_pages(app)
    app.add_directive("sslmem-scorecard", Scorecard)
    app.add_directive("sslmem-benchmarks", Benchmarks)
    app.setup_extension("sslmem_utils.book.explorer")
    app.connect("env-get-outdated", _outdated)
    app.connect("source-read", _replace)
    app.connect("env-merge-info", _merge)
    app.connect("doctree-read", _described)
    app.connect("build-finished", _slides)
    downloads.register(app)
    app.config.mathjax_path = MATHJAX  # relative to the page's _static folder: no page asks for another host
    app.connect("build-finished", _copy_mathjax)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}


def _copy_mathjax(app: Any, error: Exception | None) -> None:
    """Put MathJax with SVG output, one file that needs no others, beside the pages."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if error is None and app.builder.format == "html":
        if package is None or package.origin is None:
            sys.exit("error: MathJax is missing, so formulas cannot be shown; install sphinx-mathjax-offline.")
        shutil.copyfile(Path(package.origin).parent / "static" / "mathjax" / MATHJAX, app.outdir / "_static" / MATHJAX)


def _slides(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        try:
            slides.write(Path(app.outdir) / "slides", app.sslmem_copies)
        except SSLMemError as problem:
            sys.exit(f"error: {problem}")


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Find or make the executed copies before anything is read; name the pages whose content is another than before."""
    try:
        copies = pages(_notebooks(app, env), os.environ.get(PROFILE, ""))
        app.sslmem_copies = copies
        app.sslmem_pages = {f"notebooks/{name}": page(path, editions.edition(), name) for name, path in copies.items()}
        shown = {"sslmem_scorecard": scorecard(sources(os.environ.get(PROFILE, "")))}
        shown["sslmem_benchmarks"] = repr([(one.name, one.about) for one in machines()])
    except SSLMemError as error:
        sys.exit(f"error: {error}")  # not an exception that Sphinx would wrap: one sentence, exit code 1
    texts = dict(app.sslmem_pages)
    for mark, text in shown.items():
        texts |= dict.fromkeys((name for name, about in env.metadata.items() if mark in about), text)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    before = getattr(env, "sslmem_digests", {})
    env.sslmem_digests = digests
    return [name for name, digest in digests.items() if before.get(name) != digest]


def _notebooks(app: Any, env: Any) -> list[str]:
    names = [Path(name).name for name in sorted(env.found_docs) if name.startswith("notebooks/")]
    if Path(app.srcdir).resolve() != paths.ROOT.resolve():
        raise SpecError(
            f"the book in {app.srcdir} is built with the package of {paths.ROOT}; install its own (pip install -e .)."
        )
    return names


def _replace(app: Any, docname: str, source: list[str]) -> None:
    if docname in app.sslmem_pages:
        source[0] = app.sslmem_pages[docname]
    else:
        source[0] = editions.prose(source[0], editions.edition())


def _described(app: Any, doctree: Any) -> None:
    """Warn of every picture without alt text, which breaks the build."""
    from docutils import nodes
    from sphinx.util import logging

    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            where = image.get("uri", "a picture")
            logging.getLogger(__name__).warning(
                "%s has no alt text; say in words what it shows (:alt: ...).", where, location=image
            )


def _merge(app: Any, env: Any, docnames: Sequence[str], other: Any) -> None:
    """The digests are complete before documents are read, so parallel readers have nothing to add."""
