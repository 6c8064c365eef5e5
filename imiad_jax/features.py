"""The shared jit-compiled feature extractor, and a store that runs it once for each category.

Since a setting only chooses rows, the pixels and frozen features of a category are the same for
every setting, seed and method that shares a backbone: they are kept here, on the host.
"""

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from imiad_jax import data, parallel, plugins
from imiad_jax.types import Index

_LOG = logging.getLogger(__name__)


class Backbone(NamedTuple):
  """A pretrained network and the weights it was given."""

  name: str
  apply: Callable[..., dict[str, jax.Array]]  # (params, image [b,h,w,3] in [0,1]) -> stages
  params: Any
  sha256: str  # of the weight file


@functools.cache
def backbone(name: str) -> Backbone:
  """Loads a backbone by name; raises UserError when it or its weights are not there."""
  module = plugins.backbone(name)
  params, sha256 = module.load(name)
  net = module.Model(name)
  return Backbone(name, lambda p, x: net.apply({"params": p}, x), params, sha256)


def shapes(net: Backbone, stages: tuple[str, ...], size: int) -> tuple[tuple[str, Any], ...]:
  """Returns ((stage, (h', w', c)), ...) for images of size x size, without running the network."""
  out = jax.eval_shape(net.apply, net.params, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
  for stage in stages:
    plugins.check(f"stage of {net.name}", str(stage), out)
  return tuple((stage, out[stage].shape[1:]) for stage in stages)


@functools.cache
def frozen(name: str, stages: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:
  """Returns (params, uint8 [b,h,w,3]) -> {stage: [b,h',w',c]}, to be compiled."""
  net = backbone(name)

  def one(params: Any, image: jax.Array) -> dict[str, jax.Array]:
    out = net.apply(params, image.astype(jnp.float32) / 255)
    return {stage: out[stage] for stage in stages}

  return one


@functools.cache
def _extractor(name: str, stages: tuple[str, ...]) -> Callable[..., dict[str, np.ndarray]]:
  """Returns `frozen` for any number of images on the host, split over the devices."""
  return parallel.chunked(frozen(name, stages), chunk=8)


def extract(net: Backbone, stages: tuple[str, ...], image: np.ndarray) -> dict[str, np.ndarray]:
  """Returns {stage: [n,h',w',c]} of images [n,h,w,3] uint8, split over the devices."""
  return _extractor(net.name, stages)(net.params, image) if stages else {}


class Store:
  """Pixels and features of whole categories of one data set, least recently used out first."""

  def __init__(
    self,
    index: Index,
    source: data.Source,
    together: dict[tuple[str, int], tuple[str, ...]] | None = None,
    budget: int = 4 << 30,
  ):
    """Keeps up to `budget` bytes on the host.

    `together` names for (backbone, size) the stages that will be asked for, so that one pass
    gives them all.
    """
    self.index, self.source, self.budget = index, source, budget
    self._together = together or {}
    self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

  def pixels(self, rows: Int[np.ndarray, " n"], size: int) -> data.Pixels:
    """Returns the pixels of rows, in their order, at size x size."""
    return data.Pixels(*self._take(rows, lambda c: self._pixels(c, size)))

  def features(
    self, rows: Int[np.ndarray, " n"], name: str, stages: tuple[str, ...], size: int
  ) -> dict[str, np.ndarray]:
    """Returns {stage: [n,h',w',c]} of rows, in their order, from the frozen backbone `name`."""
    parts = self._take(rows, lambda c: self._features(c, name, stages, size))
    return dict(zip(stages, parts, strict=True))

  def defects(self, rows: Int[np.ndarray, " n"]):
    """Returns what `data.defects` does."""
    return data.defects(self.index, self.source, rows)

  def _take(self, rows: np.ndarray, get: Callable[[str], tuple[np.ndarray, ...]]):
    """Gathers rows from the arrays of their categories."""
    out: list[np.ndarray] = []
    categories = self.index.category[rows]
    for category in np.unique(categories):
      here = np.flatnonzero(categories == category)
      place = np.searchsorted(self._rows(category), rows[here])
      for k, array in enumerate(get(category)):
        if len(out) <= k:
          out.append(np.empty((len(rows), *array.shape[1:]), array.dtype))
        out[k][here] = array[place]
    return tuple(out)

  def _rows(self, category: str) -> np.ndarray:
    return np.flatnonzero(self.index.category == category)

  def _pixels(self, category: str, size: int) -> data.Pixels:
    key = (category, size)
    if key not in self._kept:
      self._kept[key] = data.load(self.index, self.source, self._rows(category), size)
    self._use(key)
    return self._kept[key]

  def _features(self, category: str, name: str, stages: tuple[str, ...], size: int):
    key = (category, size, name)
    kept = self._kept.get(key, {})
    if any(s not in kept for s in stages):
      wanted = dict.fromkeys((*stages, *self._together.get((name, size), ())))
      missing = tuple(s for s in wanted if s not in kept)
      images = self._pixels(category, size).image
      _LOG.info("features: %s of %d images of %s", "+".join(missing), len(images), category)
      kept = kept | _extractor(name, missing)(backbone(name).params, images)
    elif stages:
      _LOG.info("features: cached for %s", category)
    self._kept[key] = kept
    self._use(key)
    return tuple(kept[stage] for stage in stages)

  def _use(self, key: tuple[Any, ...]) -> None:
    """Marks an entry as just used and drops the oldest ones while over the budget."""
    self._kept.move_to_end(key)
    while (
      len(self._kept) > 1 and sum(x.nbytes for x in jax.tree.leaves(dict(self._kept))) > self.budget
    ):
      self._kept.popitem(last=False)
