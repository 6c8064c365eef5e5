"""BGAD: the authors' flow and losses, its boundaries, and the anomalies that it keeps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import conditional_flow as flow
from imiad_jax.methods import bgad
from tests.methods.common import assert_refused, batch, first_state, jitted, learnt
from tests.parity import seeded

TINY = {
  "stages": ("layer2",),
  "steps": 2,
  "code": 4,
  "chunk": 64,
  "epochs": 12,
  "lr": 1e-2,
  "extra": 1,
  "kept": 4,
}

PARITY = Path(__file__).parents[1] / "parity" / "bgad.npz"
NAMES = {
  "first": "subnet.0.weight",
  "first_bias": "subnet.0.bias",
  "second": "subnet.2.weight",
  "second_bias": "subnet.2.bias",
  "scale": "global_scale",
  "shift": "global_offset",
}


@pytest.fixture(scope="module")
def stored():
  with np.load(PARITY) as file:
    return dict(file)


def ours(stored, get):
  """The original's arrays, by name, in our layout: steps first, linear maps [in,out]."""
  steps = len(stored["rotations"])

  def one(name: str):
    made = [get(f"module_list.{i}.{name}") for i in range(steps)]
    return jnp.stack([x.T if name.endswith("weight") else x.reshape(-1) for x in made])

  return {k: one(v) for k, v in NAMES.items()}


def weights(stored):
  def get(name: str):
    given = seeded.tensor(name, stored[f"gradient/{name}"].shape)
    return given + np.float32(12 * name.endswith("global_scale"))

  return ours(stored, get)


def assert_close(got, wanted, limit: float):
  """The largest difference is below `limit` times the largest value."""
  assert got.shape == wanted.shape
  assert float(np.abs(got - wanted).max()) < limit * float(np.abs(wanted).max())


def test_bgad_is_the_original(stored):
  params, turns, x, mask = weights(stored), *map(jnp.asarray, (stored[k] for k in INPUTS))
  h, w, c = stored["code"].shape
  np.testing.assert_allclose(flow.position_code(h, w, c), stored["code"], atol=1e-6)
  code = jnp.asarray(stored["code"].reshape(h * w, c))
  z, log_det = flow.forward(params, turns, x, code, 1.9)
  assert_close(z, stored["z"], 1e-5)
  assert_close(log_det, stored["log_det"], 1e-5)

  def loss(params, focal):
    likelihood = flow.log_likelihood(params, turns, x, code, 1.9)
    parts = bgad.losses(likelihood, mask, jnp.ones(len(x), bool), 0.05, 0.1, focal)
    return sum(parts.values()), (likelihood, jnp.stack(list(parts.values())))

  gradient, (likelihood, parts) = jax.jit(jax.grad(loss, has_aux=True))(params, True)
  assert_close(likelihood, stored["likelihood"], 1e-5)
  np.testing.assert_allclose(parts, stored["losses/focal"], rtol=1e-4)
  np.testing.assert_allclose(loss(params, False)[1][1], stored["losses/plain"], rtol=1e-4)
  wanted = ours(stored, lambda name: stored[f"gradient/{name}"])
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), gradient, wanted)


INPUTS = ("rotations", "x", "mask")


def test_the_flow_is_undone_by_its_inverse_and_says_how_it_stretches(stored):
  params, turns = weights(stored), jnp.asarray(stored["rotations"])
  x, code = jnp.asarray(stored["x"][8:12]), jnp.asarray(stored["code"][0, :4])
  z, log_det = flow.forward(params, turns, x, code, 1.9)
  np.testing.assert_allclose(flow.inverse(params, turns, z, code, 1.9), x, atol=1e-4)
  one = lambda x: flow.forward(params, turns, x[None], code[:1], 1.9)[0][0]  # noqa: E731
  sign, wanted = np.linalg.slogdet(jax.jacobian(one)(x[0]))
  assert sign == 1
  np.testing.assert_allclose(log_det[0], wanted, rtol=1e-4)


def test_a_flow_whose_subnets_say_nothing_is_a_rotation():
  turns = flow.rotations(jax.random.key(0), 3, 5)
  params = flow.begin(jax.random.key(1), 3, 5, 4)
  silent = params | {k: jnp.zeros_like(params[k]) for k in ("second", "second_bias")}
  x = jax.random.normal(jax.random.key(2), (6, 5))
  z, log_det = flow.forward(silent, turns, x, jnp.ones((6, 4)), 1.9)
  np.testing.assert_allclose(z, x @ (turns[2] @ turns[1] @ turns[0]).T, atol=1e-5)
  np.testing.assert_allclose(log_det, 0, atol=1e-5)
  np.testing.assert_allclose(np.linalg.det(turns), 1, rtol=1e-5)


def test_the_boundary_is_a_quantile_of_normal_values_alone():
  u = jax.random.normal(jax.random.key(0), (100,))
  normal = jnp.arange(100) < 60
  edge = bgad.boundary(u, normal, 0.09)
  assert int(jnp.sum(u[:60] < edge)) == 5  # 5.4, rounded down
  assert float(edge) == float(bgad.boundary(jnp.where(normal, u, -9), normal, 0.09))


def test_what_is_on_its_side_is_neither_pulled_nor_pushed():
  mask, known = jnp.arange(10) >= 6, jnp.ones(10, bool)
  right = jnp.where(mask, -13.0, -2.0)

  def moved(likelihood):
    parts = bgad.losses(likelihood, mask, known, 0.0, 1.0, False)
    return parts["pull"] + parts["push"]

  value, gradient = jax.value_and_grad(moved)(right)
  assert float(value) == 0
  # At the boundary itself the value is 0, but not the gradient.
  assert not np.asarray(gradient)[6:].any()
  wrong = right.at[9].set(-5.0)
  assert float(jax.grad(moved)(wrong)[9]) > 0
  unknown = bgad.losses(wrong, mask, known.at[9].set(False), 0.0, 1.0, False)
  assert float(unknown["push"]) == 0


def test_weights_grow_on_the_wrong_side_and_hardly_jump():
  for edge, anomalous in ((-0.2, False), (-1.0, True)):
    u = jnp.array([edge - 1e-4, edge + 1e-4])
    a, b = bgad.weights(u, jnp.full(2, anomalous))
    assert abs(a - b) < 0.01
  down, up = jnp.linspace(-0.3, -3, 20), jnp.linspace(-0.9, -0.1, 20)
  assert (np.diff(bgad.weights(down, jnp.zeros(20, bool))) > 0).all()
  assert (np.diff(bgad.weights(up, jnp.ones(20, bool))) > 0).all()
  assert np.isfinite(bgad.weights(jnp.array([0.0, 3.0]), jnp.array([True, False]))).all()


@pytest.mark.long
def test_scores_are_relative_to_the_likeliest_normal_feature():
  rows, state = batch("bgad", range(10, 14)), learnt("bgad")
  score = jitted("bgad")[2]
  scores = score(state, rows)
  assert 0 <= float(scores.pixel.min()) < float(scores.pixel.max()) <= 1  # as many as stages
  np.testing.assert_array_equal(scores.image, scores.pixel.max((1, 2)))
  # Where nothing is as likely as that, everything is anomalous.
  never = state._replace(peak=jax.tree.map(lambda x: x + 200, state.peak))
  np.testing.assert_array_equal(score(never, rows).pixel, 1)


@pytest.mark.long
def test_the_first_meta_epoch_learns_normal_images_alone():
  update = jitted("bgad")[0]
  told = batch("bgad", range(4))
  defect = told._replace(label=told.label.at[1].set(1))
  other = defect._replace(features={k: v.at[1].add(1.0) for k, v in told.features.items()})
  start = first_state("bgad")
  for epoch, same in ((0, True), (1, False)):
    a, b = (update(start, x._replace(epoch=jnp.int32(epoch)))[0].params for x in (defect, other))
    assert all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)) == same


@pytest.mark.long
def test_a_later_task_goes_on_but_forgets_anomalies():
  update, finish, _ = jitted("bgad")
  first = learnt("bgad")
  assert int(first.memory.count) == 0
  second, _ = update(first, batch("bgad", range(4), seed=1))
  assert int(second.memory.count) == 2
  assert int(second.optimiser["layer2"].count) > int(first.optimiser["layer2"].count) > 0
  assert int(finish(second).memory.count) == 0


@pytest.mark.parametrize(
  "wrong",
  [
    *({"stages": ()}, {"steps": 0}, {"code": 6}, {"clamp": 0.0}, {"beta": 1.0}, {"margin": -1.0}),
    *({"balance": -1.0}, {"chunk": 0}, {"lr": -1.0}, {"passes": 0}, {"kept": 0}, {"extra": 0}),
    {"stages": ("layer9",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("bgad", wrong)
