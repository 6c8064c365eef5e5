"""UniAD: what its attention does not see, and the numbers of the authors' code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import query_transformer
from imiad_jax.methods import uniad
from imiad_jax.types import Batch, Spec
from tests.methods.common import assert_refused
from tests.parity import seeded

TINY = {
  "stages": ("layer1", "layer2"),
  "width": 16,
  "heads": 2,
  "hidden": 16,
  "layers": 1,
  "neighbours": 3,
  "epochs": 40,
  "lr": 5e-3,
}


def test_a_token_sees_all_but_its_window():
  seen = query_transformer.visible(14, 14, 7)
  assert (seen == seen.T).all() and not seen.diagonal().any()
  counts = seen.sum(1).reshape(14, 14)
  assert counts.min() == counts[7, 7] == 196 - 49 and counts.max() == counts[0, 0] == 196 - 16
  assert query_transformer.visible(8, 8, 7).any(1).all()


def test_attention_does_not_depend_on_the_window():
  net, seen = query_transformer.Attention(2, 0.0), query_transformer.visible(5, 6, 3)
  rng = np.random.default_rng(0)
  query, x = (jnp.asarray(rng.normal(size=(1, 30, 4)), jnp.float32) for _ in range(2))
  params = net.init(jax.random.key(0), query, x, x, seen, False)
  other = jnp.where(seen[14][None, :, None], x, 9.0)
  one: Any = net.apply(params, query, x, x, seen, False)
  two: Any = net.apply(params, query, other, other, seen, False)
  np.testing.assert_array_equal(one[0, 14], two[0, 14])
  assert float(jnp.abs(one[0] - two[0]).max()) > 1e-2


def test_there_are_as_many_weights_as_the_authors_have():
  net = query_transformer.Reconstructor((14, 14), 256, 8, 1024, 4, 7, 0.1)
  tokens = jax.ShapeDtypeStruct((1, 196, 272), jnp.float32)
  made: Any = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), tokens)
  assert sum(x.size for x in jax.tree.leaves(made)) == 7_717_392


def test_jitter_grows_with_a_token_and_falls_with_its_channels():
  tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 4096)), jnp.float32)
  tokens = tokens * jnp.arange(1.0, 10)[None, :, None]
  np.testing.assert_array_equal(uniad.jittered(jax.random.key(0), tokens, 0.0), tokens)
  added = uniad.jittered(jax.random.key(0), tokens, 20.0) - tokens
  length = np.linalg.norm(tokens, axis=-1)
  np.testing.assert_allclose(jnp.std(added, axis=-1), 20 * length / 4096, rtol=0.1)


def test_an_images_score_is_its_largest_window():
  pixel = np.random.default_rng(0).random((2, 9, 11)).astype(np.float32)
  means = [
    [pixel[k, i : i + 4, j : j + 4].mean() for i in range(6) for j in range(8)] for k in (0, 1)
  ]
  np.testing.assert_allclose(uniad.highest(jnp.asarray(pixel), 4), np.max(means, 1), rtol=1e-5)


def pairs(layers: int) -> Iterator[tuple[tuple[str, ...], str, int | None]]:
  """Yields our path, their name and which third of it: queries, keys or values."""
  yield ("rows",), "pos_embed.row_embed.weight", None
  yield ("columns",), "pos_embed.col_embed.weight", None

  def dense(ours: tuple[str, ...], name: str) -> Iterator[tuple[tuple[str, ...], str, None]]:
    yield (*ours, "kernel"), f"{name}.weight", None
    yield (*ours, "bias"), f"{name}.bias", None

  def norm(ours: tuple[str, ...], name: str) -> Iterator[tuple[tuple[str, ...], str, None]]:
    yield (*ours, "scale"), f"{name}.weight", None
    yield (*ours, "bias"), f"{name}.bias", None

  for half, attentions in (
    ("encoder", ("self_attn",)),
    ("decoder", ("self_attn", "multihead_attn")),
  ):
    for i in range(layers):
      at, of = f"{half}{i}", f"transformer.{half}.layers.{i}"
      for j, attention in enumerate(attentions):
        for part, name in enumerate(("query", "key", "value")):
          yield (at, f"attend{j}", name, "kernel"), f"{of}.{attention}.in_proj_weight", part
          yield (at, f"attend{j}", name, "bias"), f"{of}.{attention}.in_proj_bias", part
        yield from dense((at, f"attend{j}", "out"), f"{of}.{attention}.out_proj")
      for j in range(len(attentions) + 1):
        yield from norm((at, f"norm{j}"), f"{of}.norm{j + 1}")
      for j in range(2):
        yield from dense((at, f"dense{j}"), f"{of}.linear{j + 1}")
      if half == "decoder":
        yield (at, "asked"), f"{of}.learned_embed.weight", None
  yield from norm(("norm",), "transformer.decoder.norm")
  yield from dense(("input",), "input_proj")
  yield from dense(("output",), "output_proj")


def take(tree: Any, path: tuple[str, ...]) -> Any:
  for key in path:
    tree = tree[key]
  return tree


def turned(x: Any, path: tuple[str, ...]) -> np.ndarray:
  return np.asarray(x).T if path[-1] == "kernel" else np.asarray(x)


def test_a_step_and_a_map_are_the_authors():
  grid, channels = 12, (3, 5)
  kw: dict[str, Any] = dict(stages=("layer1", "layer2"), size=48, width=8, heads=2, hidden=16)
  m = uniad.Model(**kw, layers=2, dropout=0.0, jitter=0.0, lr=0.1)
  shapes = tuple(
    (f"layer{i + 1}", (grid * s, grid * s, c))
    for i, (c, s) in enumerate(zip(channels, (2, 1), strict=True))
  )
  state = m.init(jax.random.key(0), Spec((48, 48, 3), shapes, 2, 1), {})
  params = jax.tree.map(np.asarray, state.params)
  for path, name, part in pairs(2):
    node = take(params, path[:-1])
    like = turned(node[path[-1]], path).shape
    full = like if part is None else (3 * like[0], *like[1:])
    drawn = seeded.tensor(name, full)
    node[path[-1]] = turned(drawn if part is None else np.split(drawn, 3)[part], path)
  params = jax.tree.map(jnp.asarray, params)
  features = {
    stage: jnp.asarray(
      np.random.default_rng(i).normal(size=(2, c, h, w)).astype(np.float32).transpose(0, 2, 3, 1)
    )
    for i, (stage, (h, w, c)) in enumerate(shapes)
  }
  zeros = jnp.zeros(2, jnp.int32)
  image, region = jnp.zeros((2, 48, 48, 3)), jnp.zeros((2, 48, 48), jnp.int32)
  told = Batch(image, zeros, region, zeros, jnp.int32(0), jnp.ones(2, bool), features)
  state = state._replace(params=params)
  scores = m.score(state, told)
  after, logs = jax.jit(m.update)(state, told)

  def theirs(tree: Any) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for path, name, _ in pairs(2):
      found.setdefault(name, []).append(turned(take(tree, path), path))
    return {name: np.concatenate(parts) for name, parts in found.items()}

  with np.load(Path(__file__).parents[1] / "parity" / "uniad.npz") as stored:
    np.testing.assert_allclose(seeded.sample(np.asarray(scores.pixel)), stored["map"], rtol=1e-4)
    np.testing.assert_allclose(scores.image, stored["score"], rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], stored["loss"], rtol=1e-5)
    gradients = theirs(jax.tree.map(lambda x: 10 * x, after.optimiser[1].mu))
    moved = theirs(jax.tree.map(lambda a, b: a - b, after.params, params))
    assert {f"{k}/{n}" for k in ("gradient", "moved") for n in gradients} <= set(stored.files)
    for name, gradient in gradients.items():
      wanted, step = stored[f"gradient/{name}"], stored[f"moved/{name}"]
      np.testing.assert_allclose(
        seeded.sample(gradient), wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max(), err_msg=name
      )
      clear = np.abs(wanted) > 1e-2 * np.abs(wanted).max()  # Adam takes the sign of the others
      np.testing.assert_allclose(seeded.sample(moved[name])[clear], step[clear], rtol=1e-2)


@pytest.mark.parametrize(
  "wrong",
  [
    {"width": 10, "heads": 4},
    {"neighbours": 2},
    {"neighbours": 5},
    {"window": 33},
    {"dropout": 1.0},
    {"stages": ("layer9",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("uniad", wrong)
