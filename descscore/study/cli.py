"""The commands of ``descscore judgments``; each imports slow modules when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from descscore.errors import UsageError
from descscore.options import PATH, LazyGroup, echo

_DATABASE = click.option(
    "--database",
    type=PATH,
    required=True,
    help="The study's database, as given to 'descscore serve'.",
)


@click.group(cls=LazyGroup, lazy={"summary": "descscore.eval.cli:summary"})
def judgments() -> None:
    """Export, summarise or delete the judgments of a study."""


@judgments.command()
@_DATABASE
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for blv_ratings.csv, sighted_ratings.csv and images.",
)
def export(database: Path, output: Path) -> None:
    """Write the judgments in the format of Kreiss et al. (2022), for 'descscore eval human --data'."""
    from descscore.study.export import export_judgments
    from descscore.study.judgments import JudgmentStore

    done = export_judgments(JudgmentStore(database), output)
    echo(f"{done.folder / 'blv_ratings.csv'}: {done.blv} rows")
    echo(f"{done.folder / 'sighted_ratings.csv'}: {done.sighted} rows")
    echo(f"{done.folder / 'images'}: {done.images} images")


@judgments.command()
@_DATABASE
@click.argument("pseudonym")
@click.confirmation_option(prompt="Delete this annotator and all their judgments?", help="Do not ask.")
def delete(database: Path, pseudonym: str) -> None:
    """Delete the annotator PSEUDONYM and all their judgments."""
    from descscore.study.judgments import JudgmentStore

    store = JudgmentStore(database)
    annotator = store.by_pseudonym(pseudonym)
    if annotator is None:
        raise UsageError(f"pseudonym {pseudonym!r}: nobody in this study has it")
    echo(f"{annotator.pseudonym}: {store.delete(annotator)} judgments deleted")


@judgments.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("name")
@click.password_option(help="The password. Others may see it here. Without this option, you type it hidden.")
def account(file: Path, name: str, password: str) -> None:
    """Add the account NAME to FILE, or change its password. 'descscore serve --accounts FILE' reads FILE."""
    from descscore.study.accounts import write_account

    write_account(file, name, password)
    echo(f"{file}: account {name}")
