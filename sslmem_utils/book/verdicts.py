"""The claims of every run, in text, and one verdict for a sentence."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .. import batch, claims, paths, runs
from ..errors import SpecError
from ..runs import display, tables
from ..wording import spelled

_NO_CLAIMS = "There are no claims yet: run `make paper`."


@dataclass
class Source:
    """The claims of one profile: made on this machine, or committed."""

    label: str
    claims: list[claims.Claim] = field(default_factory=list)
    of_notebook: dict[str, str] = field(default_factory=dict)  # hardware, commit and date of each notebook's run

    @property
    def made(self) -> list[str]:
        """What made it, each once."""
        return list(dict.fromkeys(self.of_notebook.values()))


def sources(profile: str = "") -> list[Source]:
    """Claims of this machine's run of `profile` first, then those of every committed profile, the largest first."""
    found = [_here(profile)] if profile else []
    names = {path.parent.name for path in paths.RESULTS.glob(f"*/*/{tables.CLAIMS}")}
    order = [name for name in batch.BEST_FIRST if name in names]
    for name in order + sorted(names - set(order)):
        found.append(_source(f"committed, {name}", sorted(paths.RESULTS.glob(f"*/{name}/{tables.CLAIMS}"))))
    return [source for source in found if source.claims]


def _here(profile: str) -> Source:
    return _source(f"here, {profile}", sorted((paths.BUILD / "runs" / profile).glob(f"*/{tables.CLAIMS}")))


def _source(label: str, files: Sequence[Path]) -> Source:
    return _read(label, tuple((file, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=32)  # a page asks for many verdicts
def _read(label: str, files: tuple[tuple[Path, int], ...]) -> Source:
    source = Source(label)
    for file, _ in files:
        record, records = tables.read_claims(file)
        found = claims.loads(json.dumps(records))
        source.claims += found
        made = f"{runs.machine(record)}, commit {record.get('commit')}, {str(record.get('created'))[:10]}"
        source.of_notebook |= dict.fromkeys((claim.notebook for claim in found), made)
    parts, order = _parts(paths.ROOT / "_toc.yml"), {claim.id: place for place, claim in enumerate(source.claims)}
    families: dict[str, list[claims.Claim]] = {}
    for claim in source.claims:
        families.setdefault(parts.get(claim.notebook, ""), []).append(claim)
    adjusted = [claim for family in families.values() for claim in claims.adjust(family)]
    source.claims = sorted(adjusted, key=lambda claim: order[claim.id])
    return source


@functools.cache
def _parts(file: Path) -> dict[str, str]:
    """The part of each notebook: the primaries of a part are one family of tests (without a book, all are)."""
    toc = yaml.safe_load(file.read_text()) if file.exists() else {"parts": []}
    return {
        chapter["file"].removeprefix("notebooks/"): part["caption"]
        for part in toc["parts"]
        for chapter in part["chapters"]
    }


def everything(profile: str = "") -> list[Source]:
    """Claims of every profile run on this machine, then of every committed one; or of one profile only."""
    names = {path.parent.parent.name for path in (paths.BUILD / "runs").glob(f"*/*/{tables.CLAIMS}")}
    order = [name for name in batch.BEST_FIRST if name in names] + sorted(names - set(batch.BEST_FIRST))
    found = [_here(name) for name in order] + sources()
    return [source for source in found if source.claims and (not profile or source.label.endswith(f", {profile}"))]


def as_json(found: Sequence[Source]) -> str:
    """All records: a list of sources, each with its claims."""
    records = [
        {"source": one.label, "made": one.made, "claims": [claim.model_dump(mode="json") for claim in one.claims]}
        for one in found
    ]
    return json.dumps(records, indent=1, ensure_ascii=False)


def as_text(found: Sequence[Source]) -> str:
    """The scorecard for the terminal, one block per source."""
    if not found:
        return _NO_CLAIMS
    blocks = []
    for source in found:
        rows = [("claim", "verdict", "value [95 % interval]", "n", "endpoint")]
        for claim in source.claims:
            status = claims.status(claim)
            rows += [(claim.id, status, one.value, str(one.n), one.name) for one in claim.endpoints]
        sentences = "\n".join(f"{claim.id}: {claim.sentence}" for claim in source.claims)
        blocks.append(f"{source.label} ({'; '.join(source.made)})\n{display.aligned(rows)}\n{sentences}")
    return "\n\n".join(blocks)


def cell(text: str) -> str:
    """One line that does not end a table cell."""
    return " ".join(spelled(text).split()).replace("|", r"\|")


def deciding(claim: claims.Claim) -> claims.Endpoint:
    """The endpoint to show where there is room for one: the first that is as the whole claim is."""
    return next((one for one in claim.endpoints if one.verdict == claim.verdict), claim.endpoints[0])


def best(id_: str) -> tuple[str, claims.Claim]:
    """The largest committed profile that has the claim, and the claim; SpecError when none has it."""
    for source in sources():
        for claim in source.claims:
            if claim.id == id_:
                return source.label.removeprefix("committed, "), claim
    raise SpecError(f"claim {id_} stands in no committed result; write an id of `sslmem claims`, or run its notebook.")
