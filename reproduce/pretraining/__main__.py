"""Train the bundled base: ``python -m reproduce.pretraining --data DIR --work DIR --output DIR``."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import torch

from descscore.options import PATH
from reproduce.pages import data_option
from reproduce.pretraining.settings import Settings
from reproduce.pretraining.train import Pretraining


@click.command()
@data_option
@click.option("--work", type=PATH, required=True, help="Folder for cached views, vectors and checkpoints.")
@click.option("--output", type=PATH, help="Folder for the model; by default WORK/model.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data: Path, work: Path, output: Path | None, threads: int, seed: int) -> None:
    """Train the base on the train splits under --data, and write it in open_clip's own form.

    A killed run goes on from its last checkpoint when it is started again.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(threads)
    training = Pretraining(data, work, Settings(seed=seed))
    training.train()
    training.export(output or work / "model")


if __name__ == "__main__":
    main()
