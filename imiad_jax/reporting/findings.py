"""The findings of the paper, each judged from the lines at hand.

Where one side is claimed to be better, its gain is the mean difference over the categories and
seeds that both have: it is supported where the bootstrap interval of the gain lies above 0. What
the lines do not show is not refuted by them: other data may.
"""

import json
from collections import defaultdict
from typing import Literal, NamedTuple

from imiad_jax.records import Record
from imiad_jax.reporting import lines, ranks
from imiad_jax.reporting.lines import Entry

Verdict = Literal["supported", "not supported", "not enough runs"]

TOLD = ("bgad", "devnet", "dra", "prn", "semirest")
"""Methods that learn from labels or masks of anomalies."""

FEATURES = ("cfa", "padim", "patchcore", "rd4ad", "spade", "stpm")
"""Methods of feature embedding, for the fourth finding."""

ABOUT = 0.925
"""What counts as about 95 %: the paper's own ratios average 93 %."""

LEAST = 5
"""Runs, categories times seeds, that a gain is judged by: a bootstrap of fewer is too sure."""

NEARLY_NONE = 0.02
"""What counts as nearly no forgetting: the paper's PatchCore has 0.003 and 0.015."""

_EIGHT = (8, "rotation")
_RUN = "python -m imiad_jax.main --config=configs/"


class Finding(NamedTuple):
  """A claim of the paper and what our lines say of it."""

  claim: str
  verdict: Verdict
  evidence: str  # a sentence with the numbers, or with the command that makes the runs that lack


def find(records: list[Record]) -> list[Finding]:
  """Returns the six findings in the paper's order."""
  found = lines.entries(records)
  return [
    Finding("No method is best on all data sets.", *_no_winner(found, records)),
    Finding("Global features (GCAD) lead where anomalies are logical.", *_logical(found)),
    Finding("Told a few anomalies, methods localise defects better than PatchCore.", *_told(found)),
    Finding(
      "Eight images and rotated views of them bring feature-embedding methods to about 95 % of "
      "what they reach with all images.",
      *_few(found),
    ),
    Finding("Re-weighting helps PatchCore at a noise ratio above 0.1.", *_reweighting(found)),
    Finding("A memory bank nearly removes forgetting.", *_forgetting(found)),
  ]


def gain(better: list[Entry], worse: list[Entry], metric: str) -> lines.Mean | None:
  """Returns the mean of `better` minus `worse` over categories and seeds that both have.

  Several entries of a category and seed are averaged first. None where nothing is in common.
  """
  sides: list[dict[tuple[str, int], list[float]]] = []
  for side in (better, worse):
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    for e in side:
      if metric in e.values:
        cells[e.category, e.seed].append(e.values[metric])
    sides.append(cells)
  one = {(e.category, e.seed): e for e in better}
  pairs = {
    key: sum(a) / len(a) - sum(sides[1][key]) / len(sides[1][key])
    for key, a in sides[0].items()
    if key in sides[1]
  }
  return lines.mean([one[key]._replace(values={metric: v}) for key, v in pairs.items()], metric)


# ---- the six ----


def _no_winner(found: list[Entry], records: list[Record]) -> tuple[Verdict, str]:
  """Judges by image AUROC, among the methods that all data sets with several have."""
  metric = "image_auroc"
  sets: dict[str, dict[str, list[Entry]]] = {}
  for dataset in dict.fromkeys(e.dataset for e in found):
    methods = _methods([e for e in found if e.dataset == dataset], "unsupervised", metric)
    if len(methods) > 1:
      sets[dataset] = methods
  common = set.intersection(*map(set, sets.values())) if sets else set[str]()
  winners: dict[str, str] = {}
  for dataset, methods in sets.items():
    means = _means({m: methods[m] for m in sorted(common)}, metric)
    if len(means) > 1:
      best = max(means, key=means.__getitem__)
      winners[dataset] = f"{lines.named(best)} {means[best]:.3f}"
  tests = ranks.verdict(ranks.of(records))
  if len(winners) < 2:
    need = "It takes two methods on two data sets, each method on the same categories"
    return "not enough runs", f"{need}: {_RUN}table_unsupervised.py:dataset=NAME. {tests}"
  said = ", ".join(f"{won} on {dataset}" for dataset, won in winners.items())
  several = len({won.rpartition(" ")[0] for won in winners.values()}) > 1
  evidence = f"Best image AUROC of {len(common)} methods: {said}. {tests}"
  return ("supported" if several else "not supported"), evidence


def _logical(found: list[Entry]) -> tuple[Verdict, str]:
  metric = "image_auroc_logical"
  methods = _methods(found, "unsupervised", metric, like="gcad")
  means = _means(methods, metric)
  if "gcad" not in means or len(means) < 3:
    need = "It takes GCAD and two other methods on categories with logical anomalies"
    return "not enough runs", f"{need}: {_RUN}table_logical.py."
  other = next(m for m in means if m != "gcad")
  evidence = f"Logical image AUROC: {_said(means)}"
  if "csflow" in means:
    evidence += f"; CS-Flow, second in the paper, is number {[*means].index('csflow') + 1}"
  evidence += f". GCAD less {lines.named(other)}"
  return _judged(gain(methods["gcad"], methods[other], metric), evidence)


def _told(found: list[Entry]) -> tuple[Verdict, str]:
  """Judges by the best method that learns from anomalies; half of those must exceed PatchCore."""
  metric = "pixel_ap"
  mine = [e for e in found if e.method in (*TOLD, "patchcore") and not e.setting_kw.get("kinds")]
  methods = _methods(mine, "fully_supervised", metric, like="patchcore")
  means = _means(methods, metric)
  told = [m for m in means if m != "patchcore"]
  if "patchcore" not in means or not told:
    need = "It takes PatchCore and a method that learns from anomalies, on the same categories"
    return "not enough runs", f"{need}: {_RUN}table_fully_supervised.py."
  more = sum(means[m] > means["patchcore"] for m in told)
  evidence = f"Pixel AP: {_said(means)}; {more} of {len(told)} exceed PatchCore. "
  evidence += f"{lines.named(told[0])} less PatchCore"
  verdict, evidence = _judged(gain(methods[told[0]], methods["patchcore"], metric), evidence)
  few = verdict == "supported" and 2 * more < len(told)
  return ("not supported" if few else verdict), evidence


def _few(found: list[Entry]) -> tuple[Verdict, str]:
  """Judges by the mean over methods of the ratio of means, over categories that both have."""
  metric = "image_auroc"
  turned = [
    e
    for e in found
    if (e.setting, e.method in FEATURES, metric in e.values) == ("few_shot", True, True)
    and (e.setting_kw.get("shots"), e.setting_kw.get("view")) == _EIGHT
  ]
  ratios: dict[str, float] = {}
  for method in sorted({e.method for e in turned}):
    few = [e for e in turned if e.method == method]
    full = [
      e for e in found if (e.setting, e.method) == ("unsupervised", method) and metric in e.values
    ]
    shared = {e.category for e in few} & {e.category for e in full}
    if shared:
      a, b = (
        lines.level(lines.best([e for e in side if e.category in shared], metric), metric)
        for side in (few, full)
      )
      ratios[method] = a / b
  if not ratios:
    need = "It takes a method with eight images and rotation, and with all images of a category"
    return "not enough runs", f"{need}: {_RUN}table_few_shot.py, {_RUN}table_unsupervised.py."
  mean = sum(ratios.values()) / len(ratios)
  said = ", ".join(f"{lines.named(m)} {100 * r:.1f} %" for m, r in ratios.items())
  evidence = f"Image AUROC with eight images and rotation, of that with all images: {said}; "
  evidence += f"{100 * mean:.1f} % on average, where {100 * ABOUT:g} % or more is about 95 %."
  return ("supported" if mean >= ABOUT else "not supported"), evidence


def _reweighting(found: list[Entry]) -> tuple[Verdict, str]:
  """Judges by all numbers of neighbours against none, all else equal."""
  metric = "image_auroc"
  sides: dict[str, tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
  for e in found:
    if e.setting != "noisy" or e.method != "patchcore" or metric not in e.values:
      continue
    if e.setting_kw["ratio"] > 0.1:
      rest = {k: v for k, v in e.method_kw.items() if k != "reweight"}
      none = e.method_kw.get("reweight", 1) == 1
      sides[json.dumps([e.setting_kw, rest], sort_keys=True)][none].append(e)
  pairs = [pair for pair in sides.values() if all(pair)]
  if not pairs:
    need = "It takes PatchCore with and without re-weighting at a ratio above 0.1"
    return "not enough runs", f"{need}: {_RUN}table_noisy.py:methods=patchcore."
  said: list[str] = []
  for more, none in pairs:
    a, b = (lines.level(side, metric) for side in (more, none))
    said.append(f"{a:.3f} against {b:.3f} at {more[0].setting_kw['ratio']:g}")
  more, none = ([e for pair in pairs for e in pair[k]] for k in (0, 1))
  evidence = f"Image AUROC with re-weighting against without: {', '.join(said)}. The difference"
  return _judged(gain(more, none, metric), evidence)


def _forgetting(found: list[Entry]) -> tuple[Verdict, str]:
  """Judges by PatchCore against all others, but for the other bank."""
  metric = "fm_image_auroc"
  mine = [e for e in found if e.method != "sharedbank"]
  methods = _methods(mine, "continual", metric, like="patchcore", lower=True)
  means = _means(methods, metric)
  if "patchcore" not in means or len(means) < 2:
    need = "It takes PatchCore and another method, task after task"
    return "not enough runs", f"{need}: {_RUN}table_continual.py."
  evidence = f"Forgetting of image AUROC: {_said(means)}; up to {NEARLY_NONE:g} is nearly none."
  least = means["patchcore"] <= min(NEARLY_NONE, *means.values())
  return ("supported" if least else "not supported"), evidence


# ---- what they share ----


def _judged(mean: lines.Mean | None, evidence: str) -> tuple[Verdict, str]:
  """Returns the verdict on a gain, and the evidence with its numbers."""
  if mean is None:
    return "not enough runs", f"{evidence} is not known: they have no category and seed in common."
  evidence += f" is {mean.value:+.3f}"
  c, s = mean.count
  if mean.interval is None or c * s < LEAST:
    return "not enough runs", f"{evidence} (categories: {c}, seeds: {s}; a verdict takes {LEAST})."
  low, high = mean.interval
  evidence += f", 95 % interval {low:+.3f} to {high:+.3f} (categories: {c}, seeds: {s})."
  return ("supported" if low > 0 else "not supported"), evidence


def _methods(
  found: list[Entry], setting: str, metric: str, like: str = "", lower: bool = False
) -> dict[str, list[Entry]]:
  """Returns each method's best variant in a setting, on the categories that all can be compared on.

  Those are the categories of the method `like`, or of the one that has most, and methods that lack
  any of them are left out. `lower`: less of the metric is better.
  """
  groups: dict[str, list[Entry]] = defaultdict(list)
  for e in found:
    if e.setting == setting and metric in e.values:
      groups[e.method].append(e)
  has = {method: {e.category for e in es} for method, es in groups.items()}
  shared = has.get(like, set[str]()) if like else max(has.values(), key=len, default=set[str]())
  return {
    method: lines.best([e for e in es if e.category in shared], metric, lower)
    for method, es in groups.items()
    if shared and shared <= has[method]
  }


def _means(methods: dict[str, list[Entry]], metric: str) -> dict[str, float]:
  """Returns the mean of each method, the highest first."""
  means = {method: lines.level(es, metric) for method, es in methods.items()}
  return dict(sorted(means.items(), key=lambda item: -item[1]))


def _said(means: dict[str, float]) -> str:
  return ", ".join(f"{lines.named(method)} {value:.3f}" for method, value in means.items())
