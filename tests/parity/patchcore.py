"""Writes patchcore.npz: the bank, scores and maps of the authors' code for seeded features.

The original is github.com/amazon-science/patchcore-inspection at fcaa92f; it needs torch, faiss,
scipy, timm and tqdm: `python tests/parity/patchcore.py <its folder>`. Selection starts from all
patches, not from ten drawn ones, and nothing is projected, so that nothing is random.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
from stand_in import Backbone

sys.path.insert(0, f"{sys.argv[1]}/src")
import patchcore.patchcore
import patchcore.sampler

DIM, IMAGES, RATIO, SIZE = 12, 3, 0.25, 32
SHAPES = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels


def main() -> None:
  """Writes the embeddings, the bank that two batches leave, and what a third one scores."""
  model = patchcore.patchcore.PatchCore("cpu")
  everything = 2 * IMAGES * SHAPES["layer2"][0] ** 2
  sampler = patchcore.sampler.ApproximateGreedyCoresetSampler(RATIO, "cpu", everything, DIM)
  net, shape = Backbone(SHAPES, IMAGES), (3, SIZE, SIZE)
  model.load(net, list(SHAPES), "cpu", shape, DIM, DIM, featuresampler=sampler)
  model.fit([net.batch(0, SIZE), net.batch(1, SIZE)])
  scores, maps = model.predict(net.batch(2, SIZE))
  np.savez(
    Path(__file__).parent / "patchcore.npz",
    embedding=seeded.sample(np.array(model.embed(net.batch(0, SIZE)))),
    bank=model.anomaly_scorer.detection_features,
    image=np.array(scores),
    map=seeded.sample(np.array(maps)),
  )


if __name__ == "__main__":
  main()
