"""The verdict rule and its edges, composite claims, Holm, and the records made of claims."""

import json
import math

import pytest
import scipy.stats
from markdown_it import MarkdownIt
from statsmodels.stats.multitest import multipletests

from sslmem_utils import claims, stats
from sslmem_utils.errors import DataError, SpecError, StoreError

CLEAR = [0.10, 0.12, 0.11, 0.13, 0.09]
NEGATIVE = [-value for value in CLEAR]
NOTHING = [0.001, -0.002, 0.002, -0.001, 0.0]
UNSURE = [0.3, -0.31, 0.02, -0.01]


def claim(values=CLEAR, id="03.1", delta=0.05, **more):
    return claims.judge(
        id, "Candidates are memorized.", claims.measure("centred mean(S_C)", values, delta, "m_rel"), **more
    )


def several(*values, delta=0.05, **more):
    endpoints = [claims.measure(f"endpoint {place}", one, delta) for place, one in enumerate(values)]
    return claims.judge("03.9", "All of it holds.", endpoints, **more)


@pytest.mark.parametrize(
    "low, high, delta, verdict",
    [
        (0.1, 0.2, 0.05, "supported"),
        (0.01, 0.02, 0.05, "supported"),  # above 0 and inside the margin: the side of 0 decides
        (-0.02, -0.01, 0.05, "contradicted"),
        (-0.01, 0.02, 0.05, "no relevant effect"),
        (0.0, 0.02, 0.05, "no relevant effect"),  # a bound at 0 is not above 0
        (-0.02, 0.0, 0.05, "no relevant effect"),
        (-0.05, 0.02, 0.05, "inconclusive"),  # a bound at the margin is not inside
        (-0.02, 0.05, 0.05, "inconclusive"),
        (0.0, 0.1, 0.05, "inconclusive"),
        (-0.01, 0.01, 0.0, "inconclusive"),  # no margin declared
        (0.0, 0.0, 0.0, "inconclusive"),
        (None, None, 0.05, "inconclusive"),
        (math.nan, math.nan, 0.05, "inconclusive"),
        (0.01, math.inf, 0.05, "supported"),
    ],
)
def test_the_rule(low, high, delta, verdict):
    assert claims.decide(low, high, delta) == verdict


@pytest.mark.parametrize("arguments, words", [((0.1, 0.2, -1), "delta must not be"), ((0.2, 0.1, 0), "low <= high")])
def test_the_rule_refuses_nonsense(arguments, words):
    with pytest.raises(SpecError, match=words):
        claims.decide(*arguments)


@pytest.mark.parametrize(
    "values, verdict",
    [
        ([CLEAR, CLEAR], "supported"),
        ([CLEAR, NEGATIVE], "contradicted"),
        ([UNSURE, NEGATIVE], "contradicted"),
        ([CLEAR, NOTHING], "no relevant effect"),
        ([NOTHING, NOTHING], "no relevant effect"),
        ([NOTHING, UNSURE], "inconclusive"),
        ([CLEAR, UNSURE], "inconclusive"),
        ([CLEAR, [0.1]], "inconclusive"),
    ],
)
def test_a_claim_of_several_endpoints_needs_all_of_them(values, verdict):
    assert several(*values).verdict == verdict


def test_a_claim_from_values():
    found, wanted = claim(), stats.interval(CLEAR)
    (endpoint,) = found.endpoints
    assert (endpoint.n, endpoint.mean, endpoint.low, endpoint.high) == (5, wanted.mean, wanted.low, wanted.high)
    assert endpoint.values == tuple(CLEAR) and endpoint.p == wanted.p and endpoint.value == f"{wanted} m_rel"
    assert (found.verdict, found.reason) == ("supported", "the interval lies above 0")
    assert "above 0 supported" in found.rule and "±0.05" in found.rule and "all endpoints" not in found.rule
    assert "all endpoints must hold" in several(CLEAR, CLEAR).rule


def test_a_small_effect_is_supported_and_said_to_be_small():
    found = claim(delta=0.5)
    assert found.verdict == "supported" and "above 0, yet inside ±0.5" in found.reason
    assert "smaller than the margin" in claims.to_markdown(found)


def test_one_replication_is_inconclusive_and_says_why():
    found = claim([0.4])
    assert (found.verdict, found.reason) == ("inconclusive", "one replication has no interval")
    assert found.endpoints[0].low is None and found.endpoints[0].p is None and claims.pvalue(found) is None


def test_a_claim_from_an_interval():
    found = claims.measure("median", stats.bootstrap(CLEAR * 4, resamples=199), 0.0)
    assert found.values == () and found.n == 20 and found.verdict == "supported"
    with pytest.raises(SpecError, match="95 % intervals, found level 0.9"):
        claims.measure("mean", stats.interval(CLEAR, 0.9), 0.0)


def test_bad_measures_and_records_are_refused():
    with pytest.raises(DataError, match="must be finite"):
        claim([0.1, math.nan])
    with pytest.raises(SpecError, match="Endpoint delta"):
        claim(delta=-0.1)
    with pytest.raises(SpecError, match="Claim id"):
        claim(id="three")
    with pytest.raises(SpecError, match="Claim endpoints"):
        claims.judge("03.1", "Nothing is measured.", [])
    with pytest.raises(SpecError, match="two bounds and two replications, found n = 1"):
        claims.Endpoint(name="x", delta=0.0, n=1, mean=0.1, low=0.0, high=0.2)
    with pytest.raises(SpecError, match="found 3 and 2"):
        claims.Endpoint(name="x", delta=0.0, n=3, mean=0.1, low=0.0, high=0.2, values=(0.1, 0.1))


def test_holm_over_the_primaries():
    part = [
        claim(id="02.1"),
        claim([0.3, 0.2, 0.32], id="03.1"),
        claim(UNSURE, id="04.1"),
        claim(CLEAR, id="05.1", primary=False),
        claim([0.4], id="06.1"),
    ]
    found = {one.id: one for one in claims.adjust(part)}
    raw = [scipy.stats.ttest_1samp(values, 0).pvalue for values in (CLEAR, [0.3, 0.2, 0.32], UNSURE)]
    wanted = multipletests([*raw, 1.0], method="holm")[1]  # the claim without an interval counts as p = 1
    assert [found[id].p_holm for id in ("02.1", "03.1", "04.1")] == pytest.approx(wanted[:3])
    assert [found[id].survives for id in ("02.1", "03.1", "04.1", "05.1", "06.1")] == [True, False, None, None, None]
    assert found["03.1"].verdict == "supported" and claims.status(found["03.1"]) == "supported (not after Holm)"
    assert found["05.1"].p == pytest.approx(raw[0]) and found["05.1"].p_holm is None
    assert claims.status(found["05.1"]) == "supported (exploratory)"
    assert found["06.1"].p is None and found["06.1"].p_holm is None
    assert claims.adjust(claims.adjust(part)) == claims.adjust(part)
    with pytest.raises(SpecError, match="different ids, found 03.1, 03.1"):
        claims.adjust([claim(), claim()])


def test_the_p_of_several_endpoints():
    weak = [0.3, 0.2, 0.32]
    p, p_weak = (scipy.stats.ttest_1samp(values, 0).pvalue for values in (CLEAR, weak))
    assert claims.pvalue(several(CLEAR, weak)) == pytest.approx(p_weak)
    assert claims.pvalue(several(weak, NEGATIVE, CLEAR)) == pytest.approx(3 * p)
    assert claims.pvalue(several(weak, [0.1])) is None


def test_records_survive_the_round_trip_and_carry_what_the_design_asks():
    part = claims.adjust([claim(profile="quick", hardware="2 cores", notebook="03_four_sets"), several(CLEAR, [0.1])])
    text = claims.dumps(part)
    assert claims.loads(text) == part and claims.dumps(claims.loads(text)) == text
    first = json.loads(text)[0]
    assert {"id", "sentence", "endpoints", "rule", "verdict", "reason", "primary", "p_holm"} <= set(first)
    assert {"name", "delta", "mean", "low", "high", "n", "values", "unit"} <= set(first["endpoints"][0])


@pytest.mark.parametrize("text, words", [("{", "not JSON"), ("{}", "list of records"), ("[1]", "list of records")])
def test_damaged_records_are_refused(text, words):
    with pytest.raises(StoreError, match=words):
        claims.loads(text)


def test_records_whose_verdict_does_not_follow_are_refused():
    altered = claims.dumps([claim(UNSURE)]).replace('"verdict": "inconclusive"', '"verdict": "supported"')
    with pytest.raises(StoreError, match="recorded as 'supported', its intervals say 'inconclusive'"):
        claims.loads(altered)
    with pytest.raises(SpecError, match="Claim has no field 'colour'"):
        claims.loads(claims.dumps([claim()]).replace('"sentence"', '"colour": 1, "sentence"'))


def test_the_card_is_plain_markdown_with_a_whole_table():
    endpoint = claims.measure("25 % of (C - E) minus |C + I - 2E|", CLEAR, 0.01, "m_rel")
    card = claims.to_markdown(claims.judge("03.2", "The mirror <b>holds</b>,\n|x| < 1.", endpoint))
    html = MarkdownIt("commonmark").enable("table").render(card)
    assert html.count("<th>") == html.count("<td>") == 5 and "<b>" not in html
    assert "25 % of (C - E) minus |C + I - 2E|" in html and "The mirror &lt;b&gt;holds&lt;/b&gt;, |x| &lt; 1." in html
    assert "<strong>Claim 03.2: supported</strong>" in html and "0.110 [0.090, 0.130]" in html
