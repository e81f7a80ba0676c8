"""Draw the picture that other sites show beside a link to the book: `python book/card.py` (needs Chromium)."""

import shutil

from playwright.sync_api import sync_playwright

from sslmem_utils import paths

STATIC = paths.BOOK / "_static"
TARGET = STATIC / "card.png"
PAGE = """
<body style="margin: 0; width: 1200px; height: 630px; font-family: 'DejaVu Sans', Verdana, sans-serif; color: #24292f">
<div style="display: flex; align-items: center; gap: 28px; padding: 44px 60px 0">
  <img src="logo-light.svg" width="104" height="104">
  <div><div style="font-size: 52px; font-weight: bold">The SSLMem Book</div>
  <div style="font-size: 27px; margin-top: 8px">Which images does a self-supervised encoder memorize?</div></div>
</div>
<img src="four_sets.svg" style="display: block; height: 410px; margin: 34px auto 0">
</body>
"""


def draw() -> None:
    """Logo, title, question and the README's figure, 1200 by 630 pixels."""
    page_file = STATIC / "card.html"
    page_file.write_text(PAGE, encoding="utf-8")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 630})
            page.goto(page_file.as_uri())
            page.screenshot(path=TARGET)
            browser.close()
    finally:
        page_file.unlink()


if __name__ == "__main__":
    draw()
    print(f"wrote {TARGET.relative_to(paths.ROOT)}, {TARGET.stat().st_size:,} bytes")
