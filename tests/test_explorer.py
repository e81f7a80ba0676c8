"""The score explorer: its data are the committed tables, its pictures the right ones, and it works from a disk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from projects import environment

from sslmem_utils import joint, paths
from sslmem_utils.book import explorer
from sslmem_utils.book.explorer import payload, pictures, series, sphinx
from sslmem_utils.data import load
from sslmem_utils.errors import DataError
from sslmem_utils.runs import tables
from sslmem_utils.specs import DatasetSpec

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = '</script><img src=x onerror="window.hacked=1">'
PAGE = "# Explorer\n\n```{sslmem-explorer}\n```\n\n```{sslmem-explorer-still}\n```\n"
CONF = """extensions = ["myst_parser", "sphinx_design", "sslmem_utils.book.explorer"]
myst_enable_extensions = ["colon_fence"]
"""
COPIED = ("03_four_sets/quick", "04_cifar_scoring/quick", "16_supervised_memorization/quick", "scores/digits")


@pytest.fixture(scope="module")
def committed() -> list[explorer.Series]:
    return explorer.collect()


def of(found: list[explorer.Series], key: str) -> explorer.Series:
    return next(one for one in found if one.key == key)


# ---------------------------------------------------------------- numbers
def test_scores_of_page_03_are_those_of_the_table(committed: list[explorer.Series]) -> None:
    one = of(committed, "03_four_sets-digits")
    table, _ = tables.read(paths.RESULTS / "03_four_sets/quick", "scores", "")
    table = table[(table["seed"] == 0) & (table["representation"] == "pooled") & (table["dataset"] == "digits")]
    both = one.table.merge(table, on="row", suffixes=("", "_of_table"))
    assert len(both) == len(one.table) == len(table) == 875
    for name in ("label", "set", "m_rel", "m", "align_f", "align_g"):
        assert both[name].equals(both[f"{name}_of_table"].rename(name)), name
    assert both["se"].equals(both["se_views"].rename("se"))


def test_scores_of_page_04_are_those_of_the_table(committed: list[explorer.Series]) -> None:
    table, about = tables.read(paths.RESULTS / "04_cifar_scoring/quick", "scores", "")
    first, _ = tables.read(paths.RESULTS / "04_cifar_scoring/quick", "first_split", "")
    for method in ("simclr", "mae"):
        one = of(committed, f"04_cifar_scoring-digits-{method}")
        part = table[(table["seed"] == 0) & (table["method"] == method)]
        both = one.table.merge(part, on=["row", "label", "set"], suffixes=("", "_of_table"))
        assert len(both) == len(part)
        for name in ("m_rel", "align_f", "align_g"):
            assert both[name].equals(both[f"{name}_of_table"].rename(name))
        np.testing.assert_allclose(both["m"], both["align_g"] - both["align_f"])
        row = int(one.table.loc[one.table["set"] == "candidate", "row"].iloc[0])
        scores = first[(first["method"] == method) & (first["row"] == row)]["m_rel"]
        found = one.table.set_index("row").loc[row]
        # the mean of two of these pairs is shown, so its error is that of a mean of two
        assert found["se"] == pytest.approx(scores.std() / about["params"]["each"] ** 0.5)
        assert found["m_rel"] == pytest.approx(scores.iloc[: about["params"]["each"]].mean(), rel=1e-4)
        assert one.table.loc[one.table["set"] == "external", "se"].isna().all()


def test_other_measures_are_joined_to_their_own_split_only(committed: list[explorer.Series]) -> None:
    table, _ = tables.read(paths.RESULTS / "16_supervised_memorization/quick", "per_image", "")
    table = table[table["seed"] == 0].reset_index(drop=True)
    one = of(committed, "03_four_sets-digits")
    [group] = [group for group in one.measures if group.page == series.JOINT]
    assert set(group.table.columns[2:]) == set(table.columns) - {*joint.KEYS, *joint.FACTS}
    pd.testing.assert_frame_equal(group.table, table[group.table.columns])
    assert not of(committed, "scores-digits-simclr-mlp").measures  # sets of 400, so other ones


def test_script_holds_the_values(committed: list[explorer.Series], tmp_path: Path) -> None:
    some = [one for one in committed if one.dataset == "digits"]
    about = payload.describe("digits", some, tmp_path, {"03_four_sets": "../p.html"})
    assert about["why"] == "" and about["classes"] == [str(digit) for digit in range(10)]
    for one, found in zip(some, about["series"], strict=True):
        assert found["rows"] == one.table["row"].tolist() and found["labels"] == one.table["label"].tolist()
        assert found["sets"] == "".join(name[0].upper() for name in one.table["set"])
        for name in (*series.VALUES, "se"):
            values = pd.Series(found["values"][name], dtype=float)
            np.testing.assert_allclose(values, one.table[name].astype(float), rtol=1e-5)
        assert [about["groups"][at]["page"] for at in found["groups"]] == [group.page for group in one.measures]
        assert found["address"] == ("../p.html" if one.page == "03_four_sets" else "")
    group = about["groups"][0]
    original = some[0].measures[0].table.set_index("row")
    for column in group["columns"]:
        wanted = original.loc[group["rows"], column["key"]]
        assert column["values"] == payload.numbers(wanted)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert total < 1_000_000


def test_a_large_set_is_thinned_evenly_and_a_row_that_comes_twice_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "EACH", 10)
    part = pd.DataFrame({"row": range(100), "label": 0, "set": ["candidate"] * 95 + ["external"] * 5})
    part = part.assign(m_rel=0.1, m=0.1, align_f=0.1, align_g=0.2, se=0.0)
    kept = series._tidy(part)
    assert kept["set"].value_counts().to_dict() == {"candidate": 10, "external": 5}
    assert kept["row"].iloc[[0, 9]].tolist() == [0, 94]
    with pytest.raises(DataError, match="found 94 again"):
        series._tidy(part.assign(row=part["row"].clip(upper=5)))


# ---------------------------------------------------------------- pictures
def tile(folder: Path, sheet: dict[str, Any], number: int) -> np.ndarray:
    """A picture as the page cuts it out of its sheet."""
    side, line = sheet["side"], divmod(number, sheet["columns"])
    with Image.open(folder / sheet["file"]) as whole:
        assert whole.size == (sheet["columns"] * side, sheet["lines"] * side)
        left, top = line[1] * side, line[0] * side
        return np.asarray(whole.convert("RGB").crop((left, top, left + side, top + side)))[..., 0]


def test_places_in_the_sheets_are_those_of_the_images(committed: list[explorer.Series], tmp_path: Path) -> None:
    some = [one for one in committed if one.dataset == "digits"]
    about = payload.describe("digits", some, tmp_path, {})
    images = load(DatasetSpec(name="digits"))
    for one, found in zip(some, about["series"], strict=True):
        views = pictures.views_of(one, images)
        shown = found["views"]
        assert len(shown["rows"]) == min(pictures.VIEWED, len(one.table))
        assert set(one.table.loc[one.table["set"] == "candidate", "row"]) <= set(shown["rows"])
        for at in (0, 57, len(found["rows"]) - 1):
            wanted = images.rows([found["rows"][at]])[0, 0].numpy()
            assert np.array_equal(tile(tmp_path, about["sheet"], found["tiles"][at]), wanted)  # small ones are lossless
        for at in (0, 13, len(shown["rows"]) - 1):
            number = at * shown["each"] + 2
            assert np.array_equal(tile(tmp_path, shown, number), views[number, 0])


def test_views_are_those_that_the_score_compares(committed: list[explorer.Series]) -> None:
    import torch

    from sslmem_utils import views
    from sslmem_utils.specs import seed_of

    images = load(DatasetSpec(name="digits"))
    one = of(committed, "03_four_sets-digits")
    view, row = pictures.recipe_of(one)[2], int(pictures.viewed(one)[3])
    seed = seed_of("score views", images.fingerprint, 0)  # as in scoring.align
    drawn = views.views(images.rows([row]), images.ids[[row]], view, torch.arange(one.recipe["views"]), seed)[0]
    found = pictures.views_of(one, images)[3 * pictures.SHOWN : 4 * pictures.SHOWN]
    assert np.abs(drawn[: pictures.SHOWN].numpy() * 255 - found).max() <= 0.5
    masked = pictures.views_of(of(committed, "04_cifar_scoring-digits-mae"), images)
    assert 0.7 < (masked == pictures.HIDDEN).mean() < 0.8  # three quarters of the patches are hidden


def test_large_pictures_are_shrunk() -> None:
    content, side = pictures.sheet(np.zeros((3, 3, 200, 100), np.uint8), 2)
    assert side == pictures.SIDE
    assert content[:4] == b"RIFF"


def test_other_images_under_the_same_name_are_not_shown(committed: list[explorer.Series], tmp_path: Path) -> None:
    import dataclasses

    one = of(committed, "03_four_sets-digits")
    images = load(DatasetSpec(name="digits"))
    assert pictures.other_images(one, images) == ""
    shifted = dataclasses.replace(one, key="shifted", table=one.table.assign(row=one.table["row"] - 1))
    assert "others than those that were scored" in pictures.other_images(shifted, images)
    found = payload.describe("digits", [one, shifted], tmp_path, {})["series"]
    assert found[0]["tiles"] and not found[0]["why"]
    assert found[1]["tiles"] is None and found[1]["views"] is None and found[1]["why"]


def test_without_the_images_there_are_numbers_and_a_reason(
    committed: list[explorer.Series], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures.sources, "found", lambda entry: "")
    some = [one for one in committed if one.dataset == "cifar10"]
    about = payload.describe("cifar10", some, tmp_path, {})
    assert "`sslmem data import cifar10 PATH`" in about["why"] and about["sheet"] is None
    assert all(found["tiles"] is None and len(found["rows"]) > 1000 for found in about["series"])
    assert not list(tmp_path.iterdir())


def test_nothing_in_the_data_can_leave_its_script() -> None:
    text = payload.script({"name": EVIL, "other": "\u2028&amp;"})
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text.removeprefix("window.sslmemExplorerData(").removesuffix(");\n"))["name"] == EVIL
    markup = payload.markup([{"script": EVIL, "title": EVIL}], "files/")
    assert "<img" not in markup and markup.count("<option") == 1 + len(series.VALUES) + 2
    assert sphinx.plain("<b> a|b `c` $d$\n*e*") == r"\<b\> a\|b \`c\` \$d\$ \*e\*"


# ---------------------------------------------------------------- the page
def write_evil(folder: Path) -> None:
    """A published table of a dataset that nobody has, whose names are HTML."""
    folder.mkdir(parents=True)
    facts = json.loads((paths.RESULTS / "scores/digits/simclr-mlp.json").read_text())
    facts["settings"]["f"]["dataset"]["name"] = f"evil{EVIL}"
    facts["settings"]["f"]["encoder"]["name"] = EVIL
    facts["commit"] = EVIL
    table = pd.read_parquet(paths.RESULTS / "scores/digits/simclr-mlp.parquet")
    tables.write(folder, "evil", table, facts)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page made by the directives, in a project with the digits' results and a hostile table."""
    root = tmp_path_factory.mktemp("explorer")
    for name in COPIED:
        shutil.copytree(paths.RESULTS / name, root / "results" / name)
    write_evil(root / "results/scores/evil")
    (root / "book").mkdir()
    (root / "book/explorer.md").write_text(PAGE)
    (root / "index.md").write_text("# Start\n\n```{toctree}\nbook/explorer\n```\n")
    (root / "conf.py").write_text(CONF)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-n", "-W", "--keep-going", ".", "html"]
    env = environment(root) | {"SSLMEM_DATA": str(root / "data")}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_page_has_figures_a_table_and_files_beside_it(built: Path) -> None:
    text = (built / "html/book/explorer.html").read_text()
    assert len(text) < 100_000
    assert len(re.findall(r'<img alt="[^"]{40,}"', text)) == 2
    assert "1679 (2) 0.334" in re.sub("&nbsp;|&#160;|\N{NO-BREAK SPACE}", " ", text)  # the most memorized digit
    assert "<img src=x" not in text and "&lt;img" in text
    names = {path.name for path in (built / "html/_static/explorer").iterdir()}
    assert {"explorer.js", "explorer.css"} < names
    assert {name.rsplit("-", 1)[0] for name in names if "digits-images" in name} == {"digits-images"}
    assert not re.search(
        r"https?://",
        (built / "html/_static/explorer/explorer.js").read_text().replace("http://www.w3.org/2000/svg", ""),
    )


def test_without_tables_one_sentence_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="error: the explorer needs the committed scores.*found none; run"):
        sphinx._collected()
    shutil.copytree(paths.PACKAGE.parent / "results/scores/digits", tmp_path / "scores/digits")
    (tmp_path / "scores/digits/simclr-mlp.json").write_text("{}")
    with pytest.raises(SystemExit, match="error: .*simclr-mlp.parquet does not match the checksum"):
        sphinx._collected()


def test_page_is_made_again_when_a_table_is_another(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Env:
        metadata = {"book/explorer": {sphinx.MARK: True}, "book/other": {}}

    monkeypatch.setattr(paths, "RESULTS", built / "results")
    monkeypatch.setattr(paths, "BUILD", built / "_build")
    env = Env()
    assert sphinx._outdated(None, env, set(), set(), set()) == ["book/explorer"]
    assert sphinx._outdated(None, env, set(), set(), set()) == []
    with monkeypatch.context() as patch:
        patch.setattr(payload, "write", lambda *_: pytest.fail("nothing has changed"))
        assert [one["name"] for one in sphinx._made(explorer.collect(), {})] == ["digits", f"evil{EVIL}"]
    sidecar = built / "results/scores/evil/evil.json"
    sidecar.write_text(sidecar.read_text() + "\n")
    assert sphinx._outdated(None, env, set(), set(), set()) == ["book/explorer"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine; install the system's package chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(built: Path, browser: Any) -> Iterator[Any]:
    """The page opened from the disk with the network off; no error may have been logged when the test ends."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    one = context.new_page()
    said: list[str] = []
    one.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    one.on("pageerror", lambda error: said.append(str(error)))
    one.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    one.goto((built / "html/book/explorer.html").as_uri())
    one.wait_for_selector(".sslmem-ex-tile")
    yield one
    context.close()
    assert not said


def count(page: Any) -> int:
    return int(page.inner_text(".sslmem-ex-status").split()[0])


def test_filters(page: Any, committed: list[explorer.Series]) -> None:
    table = of(committed, "03_four_sets-digits").table
    assert page.eval_on_selector("[name=series]", "box => [...box.options].map(one => one.text)")[0].startswith(
        "SimCLR"
    )
    assert count(page) == len(table)
    best = table.sort_values("m_rel", ascending=False).iloc[0]
    assert f"Image {best['row']}, class {best['label']}" in page.inner_text(".sslmem-ex-chosen")
    for letter in "ISE":
        page.uncheck(f"[name=set][value={letter}]")
    some = table[table["set"] == "candidate"]
    assert count(page) == len(some)
    page.select_option("[name=class]", "3")
    some = some[some["label"] == 3]
    assert count(page) == len(some)
    page.select_option("[name=order]", "1")
    shown = page.eval_on_selector_all(".sslmem-ex-tile", "tiles => tiles.map(tile => tile.record.row)")
    assert shown == some.sort_values("m_rel")["row"].tolist()
    low = page.locator("[name=low]")
    low.focus()
    for _ in range(7):
        low.press("PageUp")
    assert 0 < count(page) < len(some)
    bound = float(page.inner_text(".sslmem-ex-low"))
    assert count(page) == pytest.approx((some["m_rel"] >= bound).sum(), abs=1)
    page.click("button[type=reset]")
    assert count(page) == len(table)
    page.select_option("[name=series]", label="MAE with ViT")
    assert count(page) == 625 and not page.is_visible("[name=set][value=S]")
    page.select_option("[name=value]", label="EL2N (page 04)")
    assert count(page) == 125  # external images were not trained on


def test_hover_click_and_what_is_said_of_an_image(page: Any, committed: list[explorer.Series]) -> None:
    one = of(committed, "03_four_sets-digits")
    ranked = one.table.sort_values(["m_rel", "row"], ascending=[False, True]).reset_index(drop=True)
    chosen, tiles = page.locator(".sslmem-ex-chosen"), page.locator(".sslmem-ex-tile")
    tiles.nth(4).hover()
    assert f"Image {ranked['row'][4]}," in chosen.inner_text()
    tiles.nth(7).click()
    tiles.nth(2).hover()  # a kept image stays
    text = chosen.inner_text()
    row = ranked.iloc[7]
    assert f"Image {row['row']}, class {row['label']}" in text and row["set"] in text
    for name in ("m_rel", "m", "align_f", "align_g", "se"):
        assert f"{row[name]:#.3g}".rstrip(".") in text, name
    measures = one.measures[0].table.set_index("row")
    if row["row"] in measures.index:
        assert "EL2N" in text and "label memorization" in text
    assert chosen.locator("[role=img]").count() == 1 + pictures.SHOWN
    assert tiles.nth(7).get_attribute("aria-pressed") == "true"
    tiles.nth(7).click()
    tiles.nth(2).hover()
    assert f"Image {ranked['row'][2]}," in chosen.inner_text()
    page.locator(".sslmem-ex-plot circle.sslmem-ex-independent").first.hover(force=True)
    assert "independent:" in chosen.inner_text()
    assert page.locator(".sslmem-ex-plot svg").get_attribute("aria-label").count("images, mean") == 4


def test_keyboard(page: Any, committed: list[explorer.Series]) -> None:
    ranked = of(committed, "03_four_sets-digits").table.sort_values(["m_rel", "row"], ascending=[False, True])
    rows = ranked["row"].tolist()
    chosen = page.locator(".sslmem-ex-chosen")
    page.focus("button[type=reset]")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert f"Image {rows[1]}," in chosen.inner_text()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert f"Image {rows[1]}," in chosen.inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    assert f"Image {rows[59]}," in chosen.inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # more images; the first new one has the focus
    assert page.locator(".sslmem-ex-tile").count() == 120
    assert f"Image {rows[60]}," in chosen.inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert f"Image {rows[0]}," not in chosen.inner_text()


def test_a_dataset_without_images_and_hostile_names(page: Any) -> None:
    page.select_option("[name=dataset]", index=1)
    page.wait_for_selector(".sslmem-ex-note:visible")
    assert "were not on the machine" in page.inner_text(".sslmem-ex-note")
    assert EVIL in page.inner_text(".sslmem-ex-chosen") and "class 0" in page.inner_text(".sslmem-ex-grid")
    assert page.locator(".sslmem-ex-picture").count() == 0 and page.locator("img[src=x]").count() == 0
    assert page.evaluate("window.hacked") is None


def test_phone_print_and_no_script(page: Any, built: Path, browser: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(200)
    wide = "[...document.querySelectorAll('.sslmem-explorer *')].filter(one => one.getBoundingClientRect().right > 391)"
    assert page.evaluate(f"{wide}.map(one => one.className)") == []
    page.emulate_media(media="print")
    assert not page.is_visible(".sslmem-explorer") and page.is_visible("img[alt^=Densities]")
    context = browser.new_context(offline=True, java_script_enabled=False)
    still = context.new_page()
    still.goto((built / "html/book/explorer.html").as_uri())
    assert not still.is_visible(".sslmem-explorer") and still.is_visible("img[alt^=Densities]")
    context.close()
