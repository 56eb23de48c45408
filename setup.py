"""Where the packages lie; all other metadata is in pyproject.toml.

``training/`` and ``eval/`` stand at the top level of the repository but install
as ``descscore.training`` and ``descscore.eval``, so that no generic top-level
name lands in anybody's environment.
"""

from setuptools import setup

setup(
    packages=["descscore", "descscore.training", "descscore.eval"],
    package_dir={
        "descscore": "descscore",
        "descscore.training": "training",
        "descscore.eval": "eval",
    },
)
