"""Pages printed to PDF by headless Chromium, and the check that pages ask no other host."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import RunError

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ("--headless=new", "--disable-gpu", "--no-sandbox", "--no-first-run", "--no-pdf-header-footer", "--mute-audio")
_WAIT = "--virtual-time-budget=15000"  # milliseconds of the page's own clock, for formulas to be set
_SECONDS = 120  # for one page
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["'](?P<src>(?:https?:)?//[^"']+)"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|modulepreload|icon|shortcut icon|preconnect)["'])"""
    r"""[^>]*?\shref=["'](?P<link>(?:https?:)?//[^"']+)""",
    re.IGNORECASE,
)
_STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")


def browser() -> str | None:
    """The system's Chromium, if there is one."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def to_pdf(html: Path, program: str, jobs: int = 2) -> list[Path]:
    """Print every page that has a source into `_pdf`; returns the files. RunError names pages that failed."""
    pages = [path for path in sorted(html.rglob("*.html")) if _has_source(html, path)]
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(lambda page: _print(html, page, program, Path(top)), pages))
    failed = [str(page.relative_to(html)) for page, file in zip(pages, done, strict=True) if file is None]
    if failed:
        raise RunError(f"{program} printed no PDF of {', '.join(failed)}; build without --pdf, or try again.")
    return [file for file in done if file is not None]


def _has_source(html: Path, page: Path) -> bool:
    source = html / "_sources" / page.relative_to(html)
    return any(source.with_suffix(suffix).is_file() for suffix in (".md", ".ipynb"))


def _print(html: Path, page: Path, program: str, top: Path) -> Path | None:
    file = html / "_pdf" / page.relative_to(html).with_suffix(".pdf")
    if file.is_file() and file.stat().st_mtime > page.stat().st_mtime:
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = top / "-".join(page.relative_to(html).parts)  # two browsers may not share one
    command = [program, *_FLAGS, _WAIT, f"--user-data-dir={profile}", f"--print-to-pdf={file}", page.resolve().as_uri()]
    try:
        subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    return file if file.is_file() else None


def strangers(html: Path) -> list[str]:
    """What pages and style sheets would load from other hosts: one "page: address" each."""
    found = []
    for path in sorted(html.rglob("*.html")):
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(html)}: {hit['src'] or hit['link']}" for hit in _LOADED.finditer(text)]
    for path in sorted(html.rglob("*.css")):
        found += [f"{path.relative_to(html)}: {hit}" for hit in _STYLE.findall(path.read_text(encoding="utf-8"))]
    return found


def refuse(found: Sequence[str]) -> None:
    """RunError that names what the offline edition would load from elsewhere."""
    if found:
        raise RunError(
            f"the offline edition may ask no other host, found {'; '.join(found[:5])}; put a copy into book/_static."
        )
