"""Claim records, the one verdict rule, and the card that shows a claim.

A claim is a sentence of the paper with the endpoint that decides it: one number per replication (split seed x training
seed), a margin written down before the runs, and a verdict that follows from the 95 % interval over the replications.
A positive endpoint speaks for the claim. A claim with several endpoints holds only if all of them do (an
intersection-union test: every endpoint is tested at the full level, and no correction among them is needed).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, computed_field, model_validator

from .errors import SpecError, StoreError
from .specs import Spec
from .stats import Interval, Number, holm, interval, show
from .wording import spelled

Verdict = Literal["supported", "contradicted", "no relevant effect", "inconclusive"]
ALPHA = 0.05
ONE = "one replication has no interval"


def decide(low: Number | None, high: Number | None, delta: Number) -> Verdict:
    """The verdict of a 95 % interval: above 0, below 0, strictly inside +-delta, or none of these.

    The side of 0 comes first: an interval that is above 0 and inside +-delta is "supported", and `reason` adds that it
    is small. A bound of exactly 0 is on neither side. None or NaN bounds (one replication) are "inconclusive"; a delta
    of 0 declares no margin.
    """
    if delta < 0:
        raise SpecError(f"delta must not be negative, found {delta:g}; it is the margin below which no effect matters.")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if low > high:
        raise SpecError(f"an interval must have low <= high, found [{low:g}, {high:g}]; swap its bounds.")
    if low > 0:
        return "supported"
    if high < 0:
        return "contradicted"
    return "no relevant effect" if -delta < low and high < delta else "inconclusive"


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim from those of its endpoints, all of which must hold.

    Supported when all are, contradicted when any is (with k endpoints this side errs up to k times as often, which
    `adjust` corrects), no relevant effect when the endpoints that are not supported all have none, else inconclusive.
    """
    if "contradicted" in verdicts:
        return "contradicted"
    left = set(verdicts) - {"supported"}
    return "supported" if not left else left.pop() if len(left) == 1 else "inconclusive"


class Endpoint(Spec):
    """One number per replication, its interval over them, and the margin below which it would not matter."""

    name: str  # what is measured, so that a positive value speaks for the claim
    unit: str = ""
    delta: Annotated[float, Field(ge=0)]
    n: Annotated[int, Field(ge=1)]
    mean: float
    low: float | None  # None: one replication
    high: float | None
    values: Annotated[tuple[float, ...], Field(strict=False)] = ()  # one per replication, where they are known

    @model_validator(mode="after")
    def _consistent(self) -> Endpoint:
        if (self.low is None) != (self.high is None) or (self.n < 2 and self.low is not None):
            raise ValueError(
                f"an interval needs two bounds and two replications, found n = {self.n}; give both or none"
            )
        if self.values and len(self.values) != self.n:
            raise ValueError(f"n must be the number of values, found {self.n} and {len(self.values)}; correct one")
        return self

    @computed_field
    @property
    def verdict(self) -> Verdict:
        """By the rule of `decide`."""
        return decide(self.low, self.high, self.delta)

    @computed_field
    @property
    def p(self) -> float | None:
        """Two-sided p of a mean of 0, from the t statistic; None below two replications."""
        if self.low is None or self.high is None:
            return None
        return Interval(self.n, self.mean, math.nan, self.low, self.high).p

    @property
    def value(self) -> str:
        """`mean [low, high] unit`."""
        return f"{show(self.mean, self.low, self.high)} {self.unit}".strip()

    @property
    def reason(self) -> str:
        """Where the interval lies, in words; both facts when it is clear of 0 and still inside the margin."""
        if self.low is None or self.high is None:
            return ONE
        inside = -self.delta < self.low and self.high < self.delta
        if self.verdict in ("supported", "contradicted"):
            side = "above" if self.low > 0 else "below"
            small = f", yet inside ±{self.delta:g}: there is an effect, smaller than the margin" if inside else ""
            return f"the interval lies {side} 0{small}"
        beyond = f" and reaches beyond ±{self.delta:g}" if self.delta else ""
        return (
            f"the interval contains 0 and lies inside ±{self.delta:g}" if inside else f"the interval contains 0{beyond}"
        )


class Claim(Spec):
    """A sentence of the paper, the endpoints that decide it, and the verdict; one JSON record per claim and run."""

    id: Annotated[str, Field(pattern=r"^\d{2}\.\d+[a-z]?$")]  # notebook.claim, as "03.1"
    sentence: str  # the paper's claim
    endpoints: Annotated[tuple[Endpoint, ...], Field(strict=False, min_length=1)]
    primary: bool = True  # one per part of the project decides; the rest is exploratory and says so
    p: float | None = None  # filled by `adjust`, as are the next two
    p_holm: float | None = None
    survives: bool | None = None  # does a supported or contradicted primary stay so after Holm?
    profile: str = ""
    hardware: str = ""
    notebook: str = ""  # NN_name

    @computed_field
    @property
    def verdict(self) -> Verdict:
        """By the rule of `combine`."""
        return combine([one.verdict for one in self.endpoints])

    @computed_field
    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in words, endpoint by endpoint."""
        if len({one.reason for one in self.endpoints}) == 1:
            return self.endpoints[0].reason
        return "; ".join(f"{one.name}: {one.reason}" for one in self.endpoints)

    @computed_field
    @property
    def rule(self) -> str:
        """The rule as it was declared before the runs."""
        margins = sorted({one.delta for one in self.endpoints})
        inside = f"inside ±{' or '.join(f'{m:g}' for m in margins)} no relevant effect, " if any(margins) else ""
        several = "; all endpoints must hold" if len(self.endpoints) > 1 else ""
        return f"95 % interval over seeds above 0 supported, below 0 contradicted, {inside}else inconclusive{several}"


def measure(name: str, values: Interval | ArrayLike, delta: Number, unit: str = "") -> Endpoint:
    """An endpoint from one number per replication, or from a 95 % interval over them (`stats.bootstrap`, say).

    Raises DataError for values that are not finite, SpecError for a negative margin or another level.
    """
    given = isinstance(values, Interval)
    found = values if isinstance(values, Interval) else interval(values)
    if found.level != 1 - ALPHA:
        raise SpecError(f"verdicts are read off 95 % intervals, found level {found.level:g}; compute it at 0.95.")
    none = found.n < 2 or math.isnan(found.low)
    return Endpoint(
        name=name,
        unit=unit,
        delta=float(delta),
        n=found.n,
        mean=found.mean,
        low=None if none else found.low,
        high=None if none else found.high,
        values=() if given else tuple(float(value) for value in np.ravel(values)),
    )


def judge(
    id: str, sentence: str, endpoints: Endpoint | Sequence[Endpoint], *, primary: bool = True, **where: str
) -> Claim:
    """The claim on one or several endpoints; `where` may give profile, hardware and notebook."""
    several = (endpoints,) if isinstance(endpoints, Endpoint) else tuple(endpoints)
    return Claim(id=id, sentence=sentence, endpoints=several, primary=primary, **where)


def pvalue(claim: Claim) -> float | None:
    """The p of the whole claim: the largest of its endpoints' (all must hold); None below two replications.

    A contradiction needs one endpoint only, so its p is k times the smallest among the contradicted ones.
    """
    if claim.verdict == "contradicted":
        against = [one.p for one in claim.endpoints if one.verdict == "contradicted" and one.p is not None]
        return min(1.0, len(claim.endpoints) * min(against))
    found = [one.p for one in claim.endpoints]
    return None if None in found else max(p for p in found if p is not None)


def adjust(claims: Iterable[Claim]) -> list[Claim]:
    """The claims of one part with p, and Holm's p over its primaries; verdicts stay, `survives` says which hold.

    Exploratory claims get p alone. A primary without an interval counts in the family as p = 1.
    """
    claims = list(claims)
    if len(names := [claim.id for claim in claims]) != len(set(names)):
        raise SpecError(
            f"claims of one part must have different ids, found {', '.join(sorted(names))}; take one run each."
        )
    primaries = [claim for claim in claims if claim.primary]
    raw = {claim.id: pvalue(claim) for claim in claims}
    adjusted = holm([math.nan if raw[claim.id] is None else raw[claim.id] for claim in primaries])
    holms = {claim.id: float(p) for claim, p in zip(primaries, adjusted, strict=True) if not math.isnan(p)}
    out = []
    for claim in claims:
        p_holm = holms.get(claim.id)
        decided = claim.primary and claim.verdict in ("supported", "contradicted")
        survives = p_holm is not None and p_holm < ALPHA if decided else None
        out.append(claim.but(p=raw[claim.id], p_holm=p_holm, survives=survives))
    return out


def _cell(text: str) -> str:
    """One line that neither ends a table cell nor starts a tag."""
    return re.sub(r"\||<(?=[A-Za-z/!?])", lambda found: "\\" + found[0], " ".join(spelled(text).split()))


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def status(claim: Claim) -> str:
    """The verdict with what qualifies it: exploratory, or not significant after Holm."""
    notes = [] if claim.primary else ["exploratory"]
    notes += ["not after Holm"] if claim.survives is False else []
    return f"{claim.verdict} ({', '.join(notes)})" if notes else claim.verdict


def to_markdown(claim: Claim) -> str:
    """The card shown in a notebook: sentence, endpoints with intervals, verdict and rule; plain Markdown."""
    rows = [[_cell(one.name), _cell(one.value), str(one.n), f"{one.delta:g}", one.verdict] for one in claim.endpoints]
    head = ["endpoint", "mean [95 % interval]", "n", "margin", "verdict"]
    p = (
        ""
        if claim.p is None
        else f" p = {claim.p:.2g}" + ("." if claim.p_holm is None else f", Holm {claim.p_holm:.2g}.")
    )
    return "\n\n".join(
        [
            f"**Claim {claim.id}: {status(claim)}**",
            f"> {_cell(claim.sentence)}",
            _rows(head, rows),
            f"Why: {spelled(claim.reason)}.{p}",
            f"Rule: {claim.rule}.",
        ]
    )


DERIVED = set(Endpoint.model_computed_fields)
CLAIM_DERIVED = set(Claim.model_computed_fields)


def dumps(claims: Iterable[Claim]) -> str:
    """The complete records as JSON text, one claim after the other, equal for equal claims."""
    return json.dumps([claim.model_dump(mode="json") for claim in claims], indent=1, sort_keys=True) + "\n"


def loads(text: str) -> list[Claim]:
    """The records written by `dumps`; StoreError when the text is not JSON, SpecError when a record is not a claim."""
    try:
        records = json.loads(text)
    except ValueError as error:
        raise StoreError(
            f"claims must be a JSON list, found text that is not JSON ({error}); run the notebook again."
        ) from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise StoreError("claims must be a JSON list of records, found something else; run the notebook again.")
    return [_load(record) for record in records]


def _load(record: dict) -> Claim:
    given = [item for item in record.get("endpoints", []) if isinstance(item, dict)]
    endpoints = tuple(Endpoint(**{name: one[name] for name in one if name not in DERIVED}) for one in given)
    claim = Claim(**{name: record[name] for name in record if name not in CLAIM_DERIVED} | {"endpoints": endpoints})
    if record.get("verdict") != claim.verdict:
        found = record.get("verdict")
        raise StoreError(
            f"claim {claim.id} is recorded as {found!r}, its intervals say {claim.verdict!r}; run it again."
        )
    return claim
