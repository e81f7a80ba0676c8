"""Every figure type draws, says what it shows in text and alt text, is transparent, and gives the same bytes again."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sslmem_utils import figures, stats
from sslmem_utils.errors import DataError

SVG = "{http://www.w3.org/2000/svg}"


def scores(seeds=3, per_set=20, representations=("pooled", "projector")):
    rng, rows = np.random.default_rng(0), []
    for representation in representations:
        for seed in range(seeds):
            for name, mean in (("shared", 0), ("candidate", 0.1), ("independent", -0.1), ("external", 0)):
                for index in range(per_set):
                    distance = float(rng.gamma(5))
                    m_rel = mean * distance / 5 + 0.05 * rng.standard_normal()
                    rows.append((representation, seed, name, index, distance, m_rel))
    return pd.DataFrame(rows, columns=["representation", "seed", "set", "index", "knn_distance", "m_rel"])


def one(table):
    return table[table["representation"] == "pooled"].drop(columns="representation")


def counts():
    rng = np.random.default_rng(1)
    rows = [(seed, k, s, 0.3 + rng.normal() / k) for seed in range(3) for k in (2, 10, 50) for s in ("pairs", "anchor")]
    return pd.DataFrame(rows, columns=["seed", "views", "series", "value"])


def functions():
    rng, x = np.random.default_rng(2), np.linspace(-1, 1, 9)
    parts = [
        pd.DataFrame({"x": x, "value": x + 0.1 * rng.normal(), "seed": seed, "encoder": h, "panel": panel})
        for panel in ("inlier", "outlier")
        for seed in range(3)
        for h in ("f", "g")
    ]
    points = pd.DataFrame({"x": [-0.5, 0.5, 0.9], "set": ["shared", "shared", "candidate"], "panel": "outlier"})
    return pd.concat(parts), points


def estimates():
    names = ["SimCLR, MLP", "MAE, ViT", "one seed"]
    table = pd.DataFrame({"label": names, "mean": [0.1, -0.2, 0.3], "group": ["simclr", "mae", "mine"]})
    return table.assign(low=[0.04, -0.3, np.nan], high=[0.16, -0.1, np.nan])


def pictures(count=20, channels=1):
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (count, channels, 8, 8)).astype(np.uint8), rng.permutation(count) / 10


def gallery():
    images, numbers = pictures()
    return figures.gallery(images, numbers, numbers / 2, ["three"] * 10 + ["six"] * 10, columns=4)


DRAW = {
    "distribution_of_sets": lambda: figures.distribution_of_sets(scores(seeds=2)),
    "set_means": lambda: figures.set_means(stats.set_means(scores())),
    "forest": lambda: figures.forest(estimates(), "centred mean", 0.02),
    "scatter_rank": lambda: figures.scatter_rank(one(scores()).query("set in ('candidate', 'external')")),
    "convergence": lambda: figures.convergence(counts(), reference=("closed form", 0.3)),
    "curves": lambda: figures.curves(*functions()),
    "gallery": gallery,
}
SAYS = {
    "distribution_of_sets": ["shared", "candidate", "independent", "external", "backbone (pooled)", "projector output"],
    "set_means": ["shared", "candidate", "independent", "mean and 95 % interval over 3 seeds"],
    "forest": ["SimCLR, MLP", "MAE, ViT", "0.10 [0.04, 0.16]", "centred mean", "0.3"],
    "scatter_rank": ["candidate", "external", "Spearman", "distance to the 5 nearest images"],
    "convergence": ["pairs", "anchor", "closed form", "views K", "50"],
    "curves": ["inlier", "outlier", "f", "g", "shared", "candidate", "h(x)"],
    "gallery": ["three", "six", "most", "least", "1.900", "P 0.95", "below each image: relative memorization m_rel"],
}
MEANS = {  # the numbers that the alt text must give
    "distribution_of_sets": lambda: str(
        stats.interval(one(scores(seeds=2)).query("set == 'candidate'").groupby("seed")["m_rel"].mean())
    ),
    "set_means": lambda: str(stats.interval(stats.summary(one(scores()))["candidate"])),
    "forest": lambda: "one seed 0.3. The band of +-0.02",
    "scatter_rank": lambda: str(
        stats.interval(
            [
                stats.spearman(part["knn_distance"], part["m_rel"])
                for _, part in one(scores()).query("set == 'candidate'").groupby("seed")
            ]
        )
    ),
    "convergence": lambda: str(stats.interval(counts().query("views == 50 and series == 'pairs'")["value"])) + " at 50",
    "curves": lambda: "panels inlier, outlier, mean over 3 seeds. Marked on the x axis: shared, candidate.",
    "gallery": lambda: "six most memorized",
}


@pytest.fixture(scope="module")
def drawn():
    made = {name: draw() for name, draw in DRAW.items()}
    return {name: (figure, figures.to_svg(figure)) for name, figure in made.items()}


def texts(svg):
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", DRAW)
def test_the_labels_are_text_in_the_svg(drawn, name):
    found = texts(drawn[name][1])
    for wanted in SAYS[name]:
        assert any(wanted in text for text in found), f"{wanted!r} is not in {found}"


@pytest.mark.parametrize("name", DRAW)
def test_the_alt_text_is_factual(drawn, name):
    text = figures.alt(drawn[name][0])
    assert MEANS[name]() in text and text.endswith(".") and "\n" not in text and "nan" not in text


@pytest.mark.parametrize("name", DRAW)
def test_the_same_data_give_the_same_bytes(drawn, name):
    assert figures.to_svg(drawn[name][0]) == drawn[name][1]  # the same figure once more
    assert figures.to_svg(DRAW[name]()) == drawn[name][1]  # the same data once more


def test_the_bytes_do_not_depend_on_the_process(drawn):
    code = "from tests.test_figures import *; print(figures.to_svg(DRAW['curves']()), end='')"
    options = {"cwd": Path(__file__).parents[1], "env": {**os.environ, "PYTHONHASHSEED": "77"}}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options)
    assert out.stdout == drawn["curves"][1]


@pytest.mark.parametrize("name", DRAW)
def test_no_background_no_date_no_missing_fonts(drawn, name):
    svg = drawn[name][1].replace("stroke: #000000; stroke-opacity: 0", "")  # markers without an edge
    assert "dc:date" not in svg and "#ffffff" not in svg and "#000000" not in svg and "Verdana" in svg
    width, height = (float(size) for size in re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups())
    page = ElementTree.fromstring(svg).find(f"{SVG}g/{SVG}g/{SVG}path")  # the first thing drawn is the page
    assert page is None or "fill: none" in page.get("style") or "opacity: 0" in page.get("style")
    assert 300 < width <= 7.4 * 72 + 1 and height < 800


@pytest.mark.parametrize("name", DRAW)
def test_text_is_at_least_8_points_and_stays_on_the_page(drawn, name):
    figure, svg = drawn[name]
    assert min(map(float, re.findall(r"font-size: ([\d.]+)px", svg))) >= 8
    with figures.style():
        figure.draw_without_rendering()
        box = figure.get_tightbbox()  # inches, of all that is drawn
    width, height = figure.get_size_inches()
    assert -0.02 < box.x0 and box.x1 < width + 0.02 and -0.02 < box.y0 and box.y1 < height + 0.02


def luminance(ink):
    parts = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in mpl.colors.to_rgb(ink)
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


@pytest.mark.parametrize("name", ["ink", "shared", "candidate", "independent", "external", "f", "g"])
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_ink_and_sets_stand_out_on_light_and_dark(name, page):
    dark, light = sorted((luminance(figures.COLORS.get(name, figures.INK)), luminance(page)))
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_colours_are_fixed_for_known_names_and_distinct_for_others():
    assert figures.colors(["x", "candidate"])["candidate"] == figures.colors(["candidate"])["candidate"]
    found = figures.colors(["pairs", "simclr", "anchor", "pairs"])
    assert found["simclr"] == figures.COLORS["simclr"] and len(set(found.values())) == 3
    assert len(set(figures.colors(map(str, range(7))).values())) == 7 and len(figures.colors(map(str, range(30)))) == 30
    methods = ["simclr", "mae", "dino", "vicreg", "simsiam", "byol", "barlow_twins", "supervised"]
    assert len(set(figures.colors(methods).values())) == len(methods)


def test_style_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    with figures.style():
        assert mpl.rcParams["text.color"] == figures.INK
        own = Figure()
        own.subplots().set_title("own")
    DRAW["forest"]()
    assert dict(mpl.rcParams) == before
    assert "own" in texts(figures.to_svg(own)) and figures.alt(own) == ""


def test_one_seed_has_no_interval_and_says_so():
    table = one(scores(seeds=1))
    for figure in (figures.distribution_of_sets(table), figures.set_means(stats.set_means(table))):
        assert "1 seed, no interval" in figures.alt(figure) and "[" not in figures.alt(figure)
        assert not any("[" in text for text in texts(figures.to_svg(figure)))


def test_intervals_are_drawn_where_they_are():
    figure = figures.forest(estimates())
    bars = [line.get_segments()[0][:, 0] for line in figure.axes[0].collections if hasattr(line, "get_segments")]
    assert np.concatenate(bars).tolist() == pytest.approx([0.04, 0.16, -0.3, -0.1])
    table = counts().query("series == 'pairs'")
    (band,) = figures.convergence(table).axes[0].collections
    wanted = [stats.interval(table.loc[table["views"] == k, "value"]) for k in (2, 10, 50)]
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(max(found.high for found in wanted))
    assert corners[:, 1].min() == pytest.approx(min(found.low for found in wanted))
    limits = [figures.convergence(table, bounds=one).axes[0].get_ylim() for one in (None, (-9, 9), (-9, corners[0, 1]))]
    assert limits[0] == limits[1] and limits[2] == (limits[0][0], corners[0, 1])


def test_sets_without_spread_are_drawn():
    table = one(scores()).assign(m_rel=lambda rows: (rows["set"] == "candidate") * 0.1)
    assert "candidate 0.100 [0.100, 0.100]" in figures.alt(figures.distribution_of_sets(table))


def test_a_large_scatter_is_embedded_as_a_picture():
    big = figures.to_svg(figures.scatter_rank(one(scores(seeds=3, per_set=700)).query("set == 'external'")))
    assert big.count("<image") == 1 and len(big) < 600_000


def overlapping(figure):
    """Pairs of texts whose boxes overlap (tick labels aside)."""
    with figures.style():
        figure.draw_without_rendering()
        boxes = [
            (text.get_text(), text.get_window_extent().padded(-1))
            for axes in figure.axes
            for text in [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            if text.get_text()
        ]
    return [(a, b) for i, (a, box) in enumerate(boxes) for b, other in boxes[:i] if box.overlaps(other)]


@pytest.mark.parametrize("name", DRAW)
def test_no_text_covers_another(drawn, name):
    assert overlapping(drawn[name][0]) == []


def test_many_panels_and_equal_ends_do_not_overlap_either():
    assert overlapping(figures.scatter_rank(one(scores()))) == []
    table, points = functions()
    flat = table.assign(value=0.5 * table["x"])
    assert overlapping(figures.curves(pd.concat([flat, flat.assign(panel="third")]), points)) == []
    rows = [(name, views, 0.3) for name in ("pairs", "anchor", "both") for views in (2, 20)]
    lines = pd.DataFrame(rows, columns=["series", "views", "value"])
    assert overlapping(figures.convergence(lines, reference=("chance", 0.3))) == []


def embedded(svg):
    encoded = re.findall(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in encoded]


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_the_extremes_pixel_by_pixel_in_order(channels):
    images, numbers = pictures(20, channels)
    svg = figures.to_svg(figures.gallery(images, numbers, columns=3))
    order = np.argsort(-numbers)
    wanted = [images[index].transpose(1, 2, 0) for index in [*order[:3], *order[:-4:-1]]]
    found = embedded(svg)
    assert len(found) == 6 and svg.count("image-rendering:pixelated") == 6
    for shown, image in zip(found, wanted, strict=True):
        assert (shown == np.broadcast_to(image, (8, 8, 3))).all()
    assert [text for text in texts(svg) if text[:1].isdigit()] == [
        f"{numbers[i]:.3f}" for i in [*order[:3], *order[:-4:-1]]
    ]
    assert "P -" in texts(figures.to_svg(figures.gallery(images, numbers, np.full(20, np.nan))))
    other = figures.alt(figures.gallery(images, numbers, value="gain"))
    assert "highest" in other and "memorized" not in other


def test_gallery_shows_no_image_twice_and_copes_with_one():
    images, numbers = pictures(5)
    assert len(embedded(figures.to_svg(figures.gallery(images, numbers)))) == 4
    assert len(embedded(figures.to_svg(figures.gallery(images[:1], numbers[:1])))) == 1


@pytest.mark.parametrize(
    "draw, words",
    [
        (lambda: figures.gallery(np.zeros((2, 8, 8, 1), np.uint8), [1, 2]), "found uint8 (2, 8, 8, 1)"),
        (lambda: figures.gallery(pictures()[0], [1, 2]), "2 scores"),
        (lambda: figures.gallery(pictures()[0][:0], []), "0 scores"),
        (lambda: figures.forest(estimates().drop(columns="low")), "needs the columns low, found"),
        (lambda: figures.set_means(pd.DataFrame(columns=["set", "centred"])), "at least one row, found none"),
    ],
)
def test_tables_and_images_that_do_not_fit_are_refused(draw, words):
    with pytest.raises(DataError, match=re.escape(words)):
        draw()


def test_the_readme_shows_the_committed_results() -> None:
    """Mend with `python book/readme_figure.py`, and the caption by hand."""
    import runpy

    from sslmem_utils import paths

    script = runpy.run_path(str(paths.BOOK / "readme_figure.py"))
    shown, drawn = script["TARGET"].read_text(encoding="utf-8"), script["svg"]()
    words = re.findall(r">([^<>]*\d[^<>]*)</text>", drawn)  # outlines may differ in the last digit between versions
    assert words and re.findall(r">([^<>]*\d[^<>]*)</text>", shown) == words
