"""Writes softpatch.npz: the bank, its weights, scores and maps of the authors' code.

The original is github.com/TencentYoutuResearch/AnomalyDetection-SoftPatch at f8dc3e0; it needs
torch, torchvision, faiss, scipy, scikit-learn, timm and tqdm:
`python tests/parity/softpatch.py <its folder>`. Selection starts from all patches, not from ten
drawn ones, and nothing is projected, so that nothing is random. What is changed: distances of
patches that are left out weigh nothing before the first pick either, where theirs could pick one.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
from stand_in import Backbone

sys.path.insert(0, f"{sys.argv[1]}/src")
import sampler
import softpatch

DIM, IMAGES, BATCHES, RATIO, SIZE = 12, 4, 3, 0.25, 32
SHAPES = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels


def main() -> None:
  """Writes each patch's factor, the bank of all batches, and what another batch scores."""
  model = softpatch.SoftPatch("cpu")
  given = sampler.ApproximateGreedyCoresetSampler(RATIO, "cpu")
  net, shape = Backbone(SHAPES, IMAGES), (3, SIZE, SIZE)
  model.load(net, "cpu", shape, list(SHAPES), DIM, DIM, featuresampler=given)
  chosen, measured = model.featuresampler, sampler.GreedyCoresetSampler
  chosen.dimension_to_project_features_to = DIM
  chosen.number_of_starting_points = BATCHES * IMAGES * SHAPES["layer2"][0] ** 2
  distances = measured._compute_batchwise_differences

  def weighed(x, y):
    return distances(x, y) * chosen.sampling_weight[:, None]

  measured._compute_batchwise_differences = staticmethod(weighed)
  model.fit([net.batch(i, SIZE) for i in range(BATCHES)])
  scores, maps = model.predict(net.batch(BATCHES, SIZE))
  np.savez(
    Path(__file__).parent / "softpatch.npz",
    factor=model.patch_weight.numpy(),
    bank=model.anomaly_scorer.detection_features,
    weight=model.coreset_weight,
    image=np.array(scores),
    map=seeded.sample(np.array(maps)),
  )


if __name__ == "__main__":
  main()
