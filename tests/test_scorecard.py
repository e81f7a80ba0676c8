"""The scorecard: all of the paper's claims, each with what decides it; the best run first; nothing left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from projects import TOY, inside, write_notebook

from sslmem_utils import book, claims, paths
from sslmem_utils.book import verdicts
from sslmem_utils.errors import SpecError
from sslmem_utils.runs import tables
from sslmem_utils.store import write_json


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One notebook with the claims 01.1 and 01.2, run here with `quick` and committed with two profiles."""
    write_notebook(tmp_path, "01_toy", TOY)
    inside(monkeypatch, tmp_path)
    write_claims(paths.BUILD / "runs/quick/01_toy", "quick", [0.1, 0.9, -0.4])
    for profile in ("smoke", "laptop"):
        write_claims(paths.RESULTS / "01_toy" / profile, profile, [0.9, 1.0, 1.1])
    return tmp_path


def write_claims(folder: Path, profile: str, values: list[float]) -> None:
    endpoint = claims.measure("slope", values, 0.1)
    where = {"notebook": "01_toy", "profile": profile}
    found = [
        claims.judge("01.1", "It rises | falls.", endpoint, **where),
        claims.judge("01.2", "So.", endpoint, **where),
    ]
    hardware = {"cpu": "Toy", "cores": 1, "gpu": None}
    record = {"commit": "abc123", "created": "2026-01-02T03:04:05", "hardware": hardware}
    write_json(folder / tables.CLAIMS, record | {"claims": [claim.model_dump(mode="json") for claim in found]})


def asked(root: Path, *rows: dict[str, object]) -> None:
    (root / "book").mkdir(exist_ok=True)
    (root / "book/claims.yaml").write_text(yaml.safe_dump({"Part": list(rows)}))


DECIDED = {"claim": "Lines rise.", "source": "Figure 1", "decided": "01.1"}
UNTESTED = {"claim": "Lines are long.", "source": "Figure 2", "untested": "No ruler was at hand."}


def test_one_row_a_claim_and_the_best_run_first(project: Path) -> None:
    asked(project, DECIDED, UNTESTED)
    text = book.scorecard(book.sources())
    rows = [line for line in text.splitlines() if line.startswith(":::::{dropdown}")]
    assert "[Lines rise.]{.sslmem-sentence} [supported]{.sslmem-supported}" in rows[0]
    assert rows[0].endswith("n = 3; committed, laptop (Toy, 1 core, no GPU)]{.sslmem-value}")
    assert "[not tested]" in rows[1] and "**Not tested.** No ruler was at hand." in text
    assert "[So.]" in rows[2] and len(rows) == 3, "what the paper does not claim comes last"
    assert text.index("--profile laptop`") < text.index("--profile smoke`")
    assert "Toy, 1 core, no GPU, commit abc123, 2026-01-02. `sslmem run 01 --profile laptop`" in text


def test_this_machines_run_comes_before_the_committed_ones(project: Path) -> None:
    asked(project, DECIDED)
    row = next(line for line in book.scorecard(book.sources("quick")).splitlines() if "Lines rise." in line)
    assert "[inconclusive]" in row and "here, quick" in row
    assert "here, " not in book.scorecard(book.sources())


def test_the_primaries_of_a_part_are_one_family(project: Path) -> None:
    clear = [0.4, 1.0, 1.8, 1.2]  # p is 0.06 in a family of two of its kind, 0.03 alone
    for name in ("02_toy", "03_toy"):
        endpoint = claims.measure("slope", clear, 0.1)
        found = claims.judge(f"{name[:2]}.1", "It rises.", endpoint, notebook=name, profile="gpu")
        record = {"commit": "abc123", "created": "2026-01-02T03:04:05", "hardware": {"cpu": "Toy", "cores": 1}}
        write_json(paths.RESULTS / name / "gpu" / tables.CLAIMS, record | {"claims": [found.model_dump(mode="json")]})
    survive = {}
    for apart in (True, False):
        parts = [["02_toy"], ["03_toy"]] if apart else [["02_toy", "03_toy"]]
        parts = [{"caption": str(part), "chapters": [{"file": f"notebooks/{name}"} for name in part]} for part in parts]
        (project / "_toc.yml").write_text(yaml.safe_dump({"parts": parts}))
        verdicts._parts.cache_clear()
        verdicts._read.cache_clear()
        source = next(one for one in book.sources() if "gpu" in one.label)
        survive[apart] = [claim.survives for claim in source.claims]
    assert survive == {True: [True, True], False: [False, False]}


def test_the_tally_counts_the_papers_claims(project: Path) -> None:
    asked(project, DECIDED, UNTESTED)
    assert book.tally(book.sources()) == "of 2 claims, 1 supported and 1 not tested"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"claim": "A.", "source": "B"}, "the claim 'A.' needs either the id that decides it or why it is untested"),
        (DECIDED | UNTESTED, "needs either the id"),
        (DECIDED | {"decided": "77.7"}, "names claim 77.7, which no result has"),
        (DECIDED | {"beside": ["01.1"]}, "names claim 01.1 2 times"),
        (DECIDED | {"besides": []}, "has no field 'besides'"),
        ({"claim": 3}, "PaperClaim claim"),
        ("text", "is not a list of claims by part"),
    ],
)
def test_a_claim_without_a_rule_is_named(project: Path, row: dict[str, object], message: str) -> None:
    asked(project, row)
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        book.scorecard(book.sources())


def test_every_claim_of_the_committed_results_stands_on_the_scorecard_once() -> None:
    found = book.sources()
    text = book.scorecard(found)
    ids = {claim.id for source in found for claim in source.claims}
    for id_ in ids:
        assert f"\n**{id_}** " in text, f"claim {id_} is missing"
    rows = [line for line in text.splitlines() if line.startswith(":name: claim-")]
    assert len(rows) == len(set(rows))


def test_every_primary_claim_of_a_part_belongs_to_a_claim_of_the_paper_or_is_this_books_own() -> None:
    """A new primary claim needs a row in book/claims.yaml, or its place here with the reason."""
    own = {"18.1", "19.1", "15.1", "16.1", "20.1"}  # the instrument; follow-ups and what the title suggests
    taken = {id_ for row in book.paper_claims() for id_ in row.ids}
    primary = {claim.id for source in book.sources() for claim in source.claims if claim.primary}
    assert primary - taken == own
