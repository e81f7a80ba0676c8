"""The scorecard: every claim of the paper with what decides it here, then the claims that are this book's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import yaml
from pydantic import ValidationError, model_validator

from .. import claims, paths
from ..errors import SpecError
from ..specs import Spec
from .verdicts import Source, cell, deciding

FILE = "book/claims.yaml"
UNTESTED = "not tested"
_OWN = "Claims of this book"
_Found = list[tuple[Source, claims.Claim]]  # one claim in every run that has it, the best first


class PaperClaim(Spec):
    """A sentence of the paper and the notebook's claim that decides it, or why none does."""

    part: str
    claim: str
    source: str
    decided: str = ""
    beside: tuple[str, ...] = ()
    untested: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _ruled(self) -> PaperClaim:
        if bool(self.decided) == bool(self.untested):
            raise ValueError(
                f"the claim {self.claim!r} needs either the id that decides it or why it is untested; write one of them"
            )
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """Claims of notebooks that bear on it, the deciding one first."""
        return (self.decided, *self.beside) if self.decided else self.beside


def paper_claims() -> list[PaperClaim]:
    """The paper's claims in the order of book/claims.yaml, none without that file; SpecError for a wrong one."""
    file = paths.ROOT / FILE
    if not file.is_file():
        return []
    try:
        parts = yaml.safe_load(file.read_text(encoding="utf-8"))
        rows = [row | {"part": part} for part, some in parts.items() for row in some]
        return [PaperClaim(**{**row, "beside": tuple(row.get("beside", ()))}) for row in rows]
    except (yaml.YAMLError, ValidationError, AttributeError, TypeError) as error:
        raise SpecError(f"{FILE} is not a list of claims by part ({' '.join(str(error).split())}); mend it.") from None


def tally(found: Sequence[Source]) -> str:
    """How many of the paper's claims have which verdict, in words."""
    known = _by_id(found)
    verdicts = [known[row.decided][0][1].verdict if row.decided else UNTESTED for row in _checked(known)]
    counts = Counter(verdicts)
    order = ("supported", "contradicted", "no relevant effect", "inconclusive", UNTESTED)
    parts = [f"{counts[name]} {name}" for name in order if counts[name]]
    return f"of {len(verdicts)} claims, {', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else ", ".join(parts)


def scorecard(found: Sequence[Source]) -> str:
    """All claims as MyST: a row each that unfolds to endpoints, runs and commands; the paper's first, by part."""
    if not found:
        return "There are no claims yet: run `make paper`."
    known = _by_id(found)
    asked = _checked(known)
    lines: list[str] = []
    part = ""
    for row in asked:
        if row.part != part:
            part = row.part
            lines.append(f"## {part}\n")
        lines.append(_paper_row(row, known))
    taken = {id_ for row in asked for id_ in row.ids}
    if rest := sorted(set(known) - taken):
        lines += [f"## {_OWN}\n"] * bool(asked)
        lines += [_fold(known[id_][0][1].sentence, known[id_], _evidence([known[id_]]), id_) for id_ in rest]
    made = "\n".join(f"- **{source.label}**: {cell('; '.join(source.made))}" for source in found)
    return "\n".join([*lines, "## Where the numbers come from\n", made, ""])


def _by_id(found: Sequence[Source]) -> dict[str, _Found]:
    known: dict[str, _Found] = {}
    for source in found:
        for claim in source.claims:
            known.setdefault(claim.id, []).append((source, claim))
    return known


def _checked(known: dict[str, _Found]) -> list[PaperClaim]:
    """The paper's claims; SpecError when one names a claim that nothing has decided, or two the same one."""
    asked = paper_claims()
    ids = [id_ for row in asked for id_ in row.ids]
    for id_, times in Counter(ids).items():
        if id_ not in known:
            raise SpecError(
                f"{FILE} names claim {id_}, which no result has; write an id of `sslmem claims`, or run page {id_[:2]}."
            )
        if times > 1 and id_ in {row.decided for row in asked}:
            raise SpecError(
                f"{FILE} names claim {id_} {times} times, but it decides one sentence; leave it there only."
            )
    return asked


def _paper_row(row: PaperClaim, known: dict[str, _Found]) -> str:
    about = [f"In the paper: {row.source}.", row.note]
    if row.untested:
        about += [f"**Not tested.** {row.untested}"]
    body = "\n\n".join([text for text in about if text] + [_evidence([known[id_] for id_ in row.ids])])
    return _fold(row.claim, known.get(row.decided, []), body, row.decided)


def _fold(sentence: str, found: _Found, body: str, id_: str) -> str:
    """One claim: its sentence, verdict, value and run in the row, the rest folded."""
    if found:
        source, claim = found[0]
        style, word, one = _style(claim), claims.status(claim), deciding(claim)
        machine = source.of_notebook.get(claim.notebook, "").partition(", commit")[0]
        value = f"{one.name}: {one.value}, n = {one.n}; {source.label} ({machine})"
    else:
        style, word, value = "sslmem-untested", UNTESTED, ""
    title = f"[{cell(sentence)}]{{.sslmem-sentence}} [{word}]{{.{style}}}"
    title += f" [{cell(value)}]{{.sslmem-value}}" if value else ""
    name = f":name: claim-{id_.replace('.', '-')}\n" if id_ else ""
    return f":::::{{dropdown}} {title}\n{name}:class-container: sslmem-claim\n\n{body}\n:::::\n"


def _evidence(several: Sequence[_Found]) -> str:
    """Every endpoint in every run, with what made it and the command that makes it again."""
    return "\n\n".join(line for found in several for line in _of_claim(found))


def _of_claim(found: _Found) -> Iterator[str]:
    first = found[0][1]
    yield f"**{first.id}** {cell(first.sentence)} Page {{doc}}`/notebooks/{first.notebook}`."
    for source, claim in found:
        rows = [["endpoint", "mean [95 % interval]", "n", "margin", "verdict"], ["---"] * 5]
        rows += [
            [cell(one.name), cell(one.value), str(one.n), f"{one.delta:g}", f"[{one.verdict}]{{.{_style(one)}}}"]
            for one in claim.endpoints
        ]
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        made = source.of_notebook.get(claim.notebook, "")
        command = f"sslmem run {claim.notebook[:2]} --profile {claim.profile}"
        yield f"*{source.label}*: [{claims.status(claim)}]{{.{_style(claim)}}}. {cell(made)}. `{command}`"
        yield f"::::{{div}} sslmem-scroll sslmem-scorecard\n{table}\n::::"


def _style(one: claims.Endpoint | claims.Claim) -> str:
    """The class of a verdict's colour."""
    return f"sslmem-{one.verdict.replace(' ', '-')}"
