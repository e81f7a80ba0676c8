"""Exercises of the page on ImageNet."""

from __future__ import annotations

import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers, one_of


@exercise("05.1")
def hours(answer: object, streamed: pd.DataFrame) -> str | None:
    """Hours of training one pair on 100,000 images for 300 epochs."""
    found = numbers(answer, 1)
    rate = streamed.loc[streamed["step"].str.startswith("train"), "images/s"].iloc[0]
    wanted = 2 * 300 * 100_000 / rate / 3600
    if near(found[0], wanted, 0.01):
        return None
    if near(found[0], wanted / 2, 0.01):
        return "that is one encoder; a pair has two."
    if near(found[0], 2 * wanted, 0.01):
        return "the speed counts images with both their views; do not count views again."
    if near(found[0], 3600 * wanted, 0.01):
        return "these are seconds."
    return "images times epochs, over the images a second of the row that trains, for both encoders."


@exercise("05.2")
def accused(answer: object, by_file: pd.DataFrame) -> str | None:
    """Share of training images in the tenth of lowest alignment loss under f, and in all images."""
    alone = by_file[by_file["given"] == "f alone"]
    count = round(len(alone) / 10)

    def share(part: pd.DataFrame, *sets: str) -> float:
        return float(part["set"].isin(sets).mean())

    lowest, seen = alone.nsmallest(count, "align_f"), ("candidate", "shared")
    wanted = pd.Series({"accused": share(lowest, *seen), "all": share(alone, *seen)})
    found = aligned(answer, wanted)
    if near(found, wanted, 0.02):
        return None
    if near(found["all"], share(alone, "candidate"), 0.02):
        return "candidates are not the only images that f was trained on."
    if not near(found["all"], wanted["all"], 0.02):
        return "all: of the rows with f alone, the share whose set is candidate or shared."
    if near(found["accused"], share(alone.nlargest(count, "align_f"), *seen), 0.02):
        return "these are the images that f aligns worst."
    return "accused: sort the rows with f alone by `align_f`, keep the first tenth, and take the same share as for all."


@exercise("05.3")
def checkpoints(answer: object) -> str | None:
    """The pair of checkpoints from which m can be computed."""
    one_of(answer, ("a", "b", "c", "d"))
    hints = {
        "a": "both have seen every image: what is left to tell apart?",
        "c": "the two methods differ, but is there an image that only one of them has seen?",
        "d": "the images differ; does nothing else?",
    }
    return hints.get(str(answer))
