"""An audit of made pages finds every planted defect and nothing else, in bounded memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import psutil
import pytest
from audit_site import DEFECTS, found, make_site

import descscore
from descscore import DescScorer


def test_every_planted_defect_is_found_and_nothing_else(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", 30)
    records = list(descscore.audit(site.folder, model=None))
    assert len(records) == site.images == 150
    assert found(site, records) == site.planted
    assert {code for codes in site.planted.values() for code in codes} == set(DEFECTS)


@pytest.mark.long
def test_two_hundred_pages_have_no_false_alarm(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", 200)
    assert found(site, list(descscore.audit([site.folder], model=None))) == site.planted


def test_scores_do_not_change_what_the_rules_by_text_find(tmp_path: Path, tiny_folder: Path) -> None:
    site = make_site(tmp_path / "site", 24)
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    records = list(descscore.audit([site.folder], model=scorer, ignore=["P"], jobs=1))
    assert found(site, records) == site.planted
    alone = list(descscore.audit([site.folder], model=None))
    assert [one.use for one in records] == [one.use for one in alone]
    scored = [one for one in records if one.score is not None]
    assert len(scored) == sum(
        1 for one in records if one.use.name and one.use.image and not one.use.decorative
    ) - sum("F02" in codes for codes in site.planted.values())
    texts = {one.use.image: one.use.name for one in scored if not one.findings}
    image, text = next(iter(texts.items()))
    same = next(one for one in scored if one.use.image == image and one.use.name == text)
    assert same.score == pytest.approx(scorer.score(image, text).score, abs=1e-6)


def test_records_come_while_the_audit_runs(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", 120)
    records = descscore.audit(site.folder, model=None)
    first = list(itertools.islice(records, 5))
    for path in site.folder.glob("page01*.html"):
        path.unlink()  # so far away from the first page that nobody has read them yet
    assert len(first) == 5
    assert len(list(records)) < site.images - 5


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_pages(tmp_path: Path, tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    make_site(tmp_path / "site", 2000, pictures=500)
    used, process = [], psutil.Process()
    for number, _ in enumerate(descscore.audit(tmp_path / "site", model=scorer, jobs=1)):
        if number in (1000, 9999):
            used.append(process.memory_info().rss)
    assert used[1] < 1.1 * used[0]
