"""Findings: each verdict on lines of which it is known, both ways, and with too few of them."""

import itertools
import re

import numpy as np
import pytest

from imiad_jax import published
from imiad_jax.reporting import findings, lines
from tests.reporting.drawn import auroc, continual, line

WINNER, LOGICAL, TOLD, FEW, REWEIGHTING, FORGETTING = range(6)
NOISE = np.random.default_rng(0).uniform(-0.01, 0.01, 6).tolist()  # of six categories


def judged(rs, k):
  found = findings.find(rs)
  assert len(found) == 6
  return found[k].verdict, found[k].evidence


def around(value):
  return [value + x for x in NOISE]


def logical(method, values, **more):
  out = []
  for k, value in enumerate(values):
    kinds = {"logical_anomalies": {"auroc": value}, "structural_anomalies": {"auroc": 0.5}}
    values = {"image_auroc": 0.6, "kinds": kinds}
    out.append(line("unsupervised", method, f"c{k}", values, dataset="mvtec_loco", **more))
  return out


def told(method, values, kinds=0):
  kw = {"anomalies": 10, "kinds": kinds}
  return [
    line("fully_supervised", method, f"c{k}", {"pixel_ap": v}, kw=kw) for k, v in enumerate(values)
  ]


def turned(method, values, shots=8, view="rotation"):
  return auroc("few_shot", method, values, kw={"shots": shots, "view": view})


def reweighted(values, ratio, neighbours, **more):
  own = {"reweight": neighbours, "size": 224} | more
  return auroc("noisy", "patchcore", values, kw={"ratio": ratio}, own=own)


def test_nothing_is_found_in_nothing():
  for finding in findings.find([]):
    assert finding.verdict == "not enough runs"
    assert re.search(r"python -m imiad_jax.main --config=configs/table_\w+\.py", finding.evidence)


# ---- no method is best on all data sets ----


@pytest.mark.parametrize(("other", "verdict"), [(0.7, "not supported"), (0.95, "supported")])
def test_winner(other, verdict):
  rs = [
    *auroc("unsupervised", "padim", [0.9], dataset="x"),
    *auroc("unsupervised", "spade", [0.8], dataset="x"),
    *auroc("unsupervised", "padim", [0.85], dataset="y"),
    *auroc("unsupervised", "spade", [other], dataset="y"),
    *auroc("unsupervised", "patchcore", [1.0], dataset="y"),  # not run on x: not compared
  ]
  found, evidence = judged(rs, WINNER)
  assert found == verdict
  assert "PaDiM 0.900 on x" in evidence and "PatchCore" not in evidence
  assert "cannot be said" in evidence  # of ranks


def test_winner_is_compared_on_the_same_categories():
  rs = [
    *auroc("unsupervised", "padim", [0.9, 0.1], dataset="x"),
    *auroc("unsupervised", "spade", [0.8], dataset="x"),
    *auroc("unsupervised", "padim", [0.9], dataset="y"),
    *auroc("unsupervised", "spade", [0.8], dataset="y"),
  ]
  # The mean over a and b of x has no rival; without b there is one.
  assert judged(rs, WINNER)[0] == "not enough runs"
  assert judged([rs[0], *rs[2:]], WINNER)[0] == "not supported"


def test_winner_takes_two_data_sets():
  rs = [*auroc("unsupervised", "padim", [0.9]), *auroc("unsupervised", "spade", [0.8])]
  assert judged(rs, WINNER)[0] == "not enough runs"


# ---- global features ----


@pytest.mark.parametrize(
  ("gcad", "verdict"), [(0.9, "supported"), (0.803, "not supported"), (0.7, "not supported")]
)
def test_logical(gcad, verdict):
  # Noise of the same size on both sides, in another order: a lead of 0.003 is within it.
  rs = [*logical("gcad", [gcad + x for x in NOISE]), *logical("csflow", around(0.6))]
  rs += logical("padim", [0.8 + x for x in NOISE[::-1]])
  found, evidence = judged(rs, LOGICAL)
  assert found == verdict
  assert "GCAD less PaDiM" in evidence
  assert "CS-Flow, second in the paper, is number 3" in evidence


def test_logical_takes_the_best_branch_and_the_same_categories():
  rs = [*logical("gcad", around(0.9), own={"branch": "flow"})]
  rs += logical("gcad", around(0.5), own={"branch": "bottleneck"})
  rs += [*logical("padim", around(0.8)), *logical("spade", around(0.7))]
  rs += logical("stpm", [0.99])  # one category of six
  found, evidence = judged(rs, LOGICAL)
  assert found == "supported" and "STPM" not in evidence and "0.5" not in evidence


def test_logical_takes_gcad_and_two_others():
  others = [*logical("padim", around(0.8)), *logical("spade", around(0.7))]
  for rs in (others, [*logical("gcad", around(0.9)), *others[:6]]):
    assert judged(rs, LOGICAL)[0] == "not enough runs"


# ---- fully supervised ----


@pytest.mark.parametrize(
  ("bgad", "prn", "verdict"),
  [(0.8, 0.7, "supported"), (0.8, 0.4, "supported"), (0.4, 0.3, "not supported")],
)
def test_told(bgad, prn, verdict):
  rs = [*told("patchcore", around(0.5)), *told("bgad", around(bgad)), *told("prn", around(prn))]
  rs += told("padim", around(0.9))  # learns from normal images alone
  rs += told("bgad", around(0.99), kinds=1)  # another protocol
  found, evidence = judged(rs, TOLD)
  assert found == verdict
  assert "PaDiM" not in evidence and "0.99" not in evidence
  assert f"{(bgad > 0.5) + (prn > 0.5)} of 2 exceed" in evidence


def test_told_is_no_finding_where_most_are_worse():
  rs = [*told("patchcore", around(0.5)), *told("bgad", around(0.8))]
  rs += [*told("prn", around(0.4)), *told("dra", around(0.3))]
  assert judged(rs, TOLD)[0] == "not supported"


def test_a_gain_of_few_runs_is_not_judged():
  rs = [*told("patchcore", [0.5, 0.5]), *told("bgad", [0.8, 0.9])]
  found, evidence = judged(rs, TOLD)
  assert found == "not enough runs" and "+0.350 (categories: 2, seeds: 1" in evidence


# ---- few images ----


@pytest.mark.parametrize(("few", "verdict"), [(0.88, "supported"), (0.8, "not supported")])
def test_few(few, verdict):
  rs = [*turned("patchcore", [few, few]), *auroc("unsupervised", "patchcore", [0.9, 0.9, 0.1])]
  rs += turned("patchcore", [0.1], shots=4)
  rs += turned("patchcore", [0.1], view="none")
  rs += [*turned("regad", [0.1]), *auroc("unsupervised", "regad", [0.9])]
  found, evidence = judged(rs, FEW)
  assert found == verdict
  assert f"PatchCore {100 * few / 0.9:.1f} %" in evidence and "RegAD" not in evidence


def test_few_takes_both_on_the_same_categories():
  rs = turned("patchcore", [0.9])
  assert judged(rs, FEW)[0] == "not enough runs"
  rs.append(line("unsupervised", "patchcore", "z", {"image_auroc": 0.9}))
  assert judged(rs, FEW)[0] == "not enough runs"


# ---- re-weighting ----


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, "supported"), (0.0, "not supported")])
def test_reweighting(gain, verdict):
  rs = [
    *reweighted(around(0.8), 0.2, 1),
    *reweighted([0.8 + gain + x for x in NOISE[::-1]], 0.2, 3),
  ]
  rs += [*reweighted(around(0.9), 0.1, 1), *reweighted(around(0.5), 0.1, 3)]  # not above 0.1
  rs += reweighted(around(0.1), 0.2, 9, size=448)  # nothing to compare it with
  found, evidence = judged(rs, REWEIGHTING)
  assert found == verdict
  assert "at 0.2" in evidence and "at 0.1" not in evidence


def test_reweighting_takes_both():
  rs = [*reweighted(around(0.8), 0.2, 1), *reweighted(around(0.9), 0.15, 9)]
  assert judged(rs, REWEIGHTING)[0] == "not enough runs"


# ---- forgetting ----


@pytest.mark.parametrize(
  ("bank", "other", "verdict"),
  [
    (0.89, 0.5, "supported"),
    (0.8, 0.5, "not supported"),  # 0.1 / 2 is not nearly none
    (0.89, 0.9, "not supported"),  # another forgets less without a bank
  ],
)
def test_forgetting(bank, other, verdict):
  rs = [continual("patchcore", [[0.9], [bank, 0.8]], "ab")]
  rs += [continual("stpm", [[0.9], [other, 0.8]], "ab")]
  rs += [continual("sharedbank", [[0.9], [0.95, 0.8]], "ab")]  # a bank too
  found, evidence = judged(rs, FORGETTING)
  assert found == verdict
  assert f"PatchCore {(0.9 - bank) / 2:.3f}" in evidence and "Shared" not in evidence


def test_forgetting_is_that_of_the_variant_that_forgets_least():
  rs = [continual("stpm", [[0.9], [0.5, 0.8]], "ab")]
  for kept, size in ((0.89, 224), (0.5, 448)):
    rs.append(continual("patchcore", [[0.9], [kept, 0.8]], "ab", own={"size": size}))
  found, evidence = judged(rs, FORGETTING)
  assert found == "supported" and "PatchCore 0.005" in evidence


def test_forgetting_takes_another_method():
  assert judged([continual("patchcore", [[0.9], [0.9, 0.8]], "ab")], FORGETTING)[0] == (
    "not enough runs"
  )


# ---- a gain ----


def test_gain_is_over_pairs():
  def runs(values):
    return lines.entries(
      [line("noisy", "padim", c, {"image_auroc": v}, seed=s) for (c, s), v in values.items()]
    )

  one = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.7, ("c", 0): 0.1}
  two = {("a", 0): 0.8, ("a", 1): 0.6, ("b", 0): 0.9, ("d", 0): 0.9}
  mean = findings.gain(runs(one), runs(two), "image_auroc")
  # a: (0.1 + 0.2) / 2; b: -0.2, which also stands for its second seed.
  assert mean.value == pytest.approx((0.15 - 0.2) / 2) and mean.count == (2, 2)
  assert findings.gain(runs(one), runs({("z", 0): 0.5}), "image_auroc") is None


# ---- what the paper's own numbers give ----


def test_the_papers_numbers_support_its_findings():
  """Its averages as if they were categories: what the thresholds are set by."""
  rs = []
  for cell in published.cells():
    if cell.category != "average" or cell.doubt or cell.table not in ("VI", "IX", "XI"):
      continue
    method, dataset = cell.method.lower(), cell.dataset
    kw = dict(pair.split("=") for pair in cell.detail.split(";") if pair)
    if cell.metric == "image_auroc" and cell.table == "VI":
      rs += auroc("unsupervised", method, [cell.value], dataset=dataset)
    if cell.metric == "image_auroc" and cell.detail == "aug=rotation;shots=8":
      rs += turned(method, [cell.value])
    if cell.table == "XI" and kw["stage"] == "forgetting_measure" and dataset == "mvtec_ad":
      if cell.metric == "fm_image_auroc":  # the last of two tasks counts as 0
        rs.append(continual(method, [[1.0], [1 - 2 * cell.value, 1.0]], "ab"))
  found = findings.find(rs)
  assert [found[k].verdict for k in (WINNER, FEW, FORGETTING)] == ["supported"] * 3
  for claim, other in itertools.combinations([f.claim for f in found], 2):
    assert claim != other
