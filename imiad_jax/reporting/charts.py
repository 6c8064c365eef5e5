"""What a run's evidence looks like: curves, a histogram and a confusion, as numbers to be drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from imiad_jax import evidence
from imiad_jax.metrics.exact import LIMIT

WIDTH, HEIGHT = 220, 160  # of a chart's axes, in units of its SVG
_BINS = 24


class Line(NamedTuple):
  """A curve of a chart."""

  name: str
  points: str  # "x,y x,y", in units of the SVG


class Chart(NamedTuple):
  """Curves over axes from 0 to 1; the one of x may end before."""

  title: str
  x: str
  y: str
  end: str  # of x
  lines: list[Line]


class Bar(NamedTuple):
  """One bin of a histogram, in units of the SVG: how high the counts of both classes are."""

  x: float
  width: float
  normal: float
  anomalous: float


class Histogram(NamedTuple):
  """Scores of normal and of anomalous images."""

  bars: list[Bar]
  low: str
  high: str
  most: int  # images in the highest bin
  threshold: float | None  # place on the x axis, in units of the SVG


class Confusion(NamedTuple):
  """How many images a threshold tells right: it detects from itself on."""

  threshold: str
  f1: str
  detected: tuple[int, int]  # of the normal ones, of the anomalous ones
  passed: tuple[int, int]


def curves(test: evidence.Test) -> list[Chart]:
  """Returns the curves of ROC, PR and PRO that a test has, of images and of pixels."""
  normal, anomalous = test.score[test.label == 0], test.score[test.label == 1]
  images = evidence.curve(normal, anomalous, np.ones(len(anomalous)))
  both = [(name, x) for name, x in (("images", images), ("pixels", test.curve)) if len(x)]
  roc = [Line(name, _points(_from_origin(x[:, 0]), _from_origin(x[:, 1]))) for name, x in both]
  pr = [Line(name, _points(x[:, 1], x[:, 2])) for name, x in both]
  charts = [
    Chart("ROC", "false positive rate", "recall", "1", roc),
    Chart("Precision and recall", "recall", "precision", "1", pr),
  ]
  if len(test.curve):
    x, y = _from_origin(test.curve[:, 0]), _from_origin(test.curve[:, 3])
    inside = x <= LIMIT
    x, y = np.append(x[inside], LIMIT), np.append(y[inside], np.interp(LIMIT, x, y))
    line = Line("regions", _points(x / LIMIT, y))
    charts.append(Chart("PRO", "false positive rate", "overlap", f"{LIMIT}", [line]))
  return charts if both else []


def histogram(test: evidence.Test, threshold: float | None) -> Histogram:
  """Returns how the scores of a test lie."""
  low, high = float(test.score.min()), float(test.score.max())
  edges = np.linspace(low, max(high, low + 1e-9), _BINS + 1)
  counts = [np.histogram(test.score[test.label == k], edges)[0] for k in (0, 1)]
  most = int(max(counts[0].max(), counts[1].max()))
  width = WIDTH / _BINS
  bars = [
    Bar(round(k * width, 1), round(width, 1), *(round(HEIGHT * n / most, 1) for n in pair))
    for k, pair in enumerate(zip(*counts, strict=True))
  ]
  place = None if threshold is None else WIDTH * (threshold - low) / (edges[-1] - low)
  return Histogram(bars, f"{low:.3g}", f"{high:.3g}", most, place)


def confusion(test: evidence.Test, threshold: float) -> Confusion:
  """Returns what a threshold detects of a test's images."""
  found = test.score >= np.float32(threshold)
  detected = [int((found & (test.label == k)).sum()) for k in (0, 1)]
  passed = [int((~found & (test.label == k)).sum()) for k in (0, 1)]
  f1 = 2 * detected[1] / max(2 * detected[1] + detected[0] + passed[1], 1)
  return Confusion(
    f"{threshold:.4g}", f"{f1:.3f}", (detected[0], detected[1]), (passed[0], passed[1])
  )


def _from_origin(x: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k+1"]:
  return np.concatenate([[0.0], x])


def _points(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> str:
  pairs = [f"{WIDTH * a:.1f},{HEIGHT * (1 - b):.1f}" for a, b in zip(x, y, strict=True)]
  return " ".join(dict.fromkeys(pairs))
