"""Where the packages lie; all other metadata is in pyproject.toml.

``training/`` and ``eval/`` stand at the top level of the repository but install
as ``descscore.training`` and ``descscore.eval``, so that no generic top-level
name lands in anybody's environment.
"""

from setuptools import find_packages, setup

TOP_LEVEL = {"descscore": "descscore", "training": "descscore.training", "eval": "descscore.eval"}

setup(
    packages=[
        installed + package.removeprefix(folder)
        for folder, installed in TOP_LEVEL.items()
        for package in find_packages(include=[folder, f"{folder}.*"])
    ],
    package_dir={installed: folder for folder, installed in TOP_LEVEL.items()},
)
