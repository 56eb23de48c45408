"""An audit of pages of real or made figures finds the planted defects and little else, in bounded memory."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import psutil
import pytest
from audit_site import DEFECTS, demo_figures, found, made_figures, make_site, real_figures

import descscore
from descscore import DescScorer
from descscore.auditing.wording import drawn_kind
from descscore.errors import ModelError


def test_every_planted_defect_is_found_and_nothing_else(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", 30)
    records = list(descscore.audit(site.folder, model=None))
    assert len(records) == site.images == 150
    assert found(site, records) == site.planted
    assert {code for codes in site.planted.values() for code in codes} == set(DEFECTS)


@pytest.mark.long
def test_two_hundred_pages_have_no_false_alarm(tmp_path: Path, shared_data: Path | None) -> None:
    site = make_site(tmp_path / "site", 200, real_figures(shared_data) if shared_data else [])
    assert found(site, list(descscore.audit([site.folder], model=None))) == site.planted


@pytest.mark.long
def test_most_wrong_and_swapped_texts_are_found_at_few_false_alarms(
    tmp_path: Path, shared_data: Path | None
) -> None:
    share = 0.7 if shared_data else 0.5  # of a few pairings of four photos
    if shared_data is None:
        site = make_site(tmp_path / "site", 60, demo_figures(), a_page=3, kinds=("P01", "P02"))
    else:
        # What the model does not judge, such as charts, has no findings by the picture at all.
        figures = [one for one in real_figures(shared_data) if not drawn_kind(one.text, one.caption)]
        site = make_site(tmp_path / "site", 200, figures, kinds=("P01", "P02"))
    codes = found(site, list(descscore.audit(site.folder, select=["P01", "P02"])))
    for code in ("P01", "P02"):
        planted = [place for place, planted in site.planted.items() if planted == {code}]
        assert sum(code in codes.get(place, ()) for place in planted) >= share * len(planted) > 0, code
        alarms = sum(code in found for place, found in codes.items() if place not in site.planted)
        assert alarms <= 0.1 * (site.images - len(site.planted)), code


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


def test_a_damaged_model_is_no_fault_of_the_site(tmp_path: Path, tiny_folder: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["norm_kwargs"] = {"eps": -1e6}  # every score is NaN
    (model / "open_clip_config.json").write_text(json.dumps(config))
    make_site(tmp_path / "site", 1, made_figures(40))
    with pytest.raises(ModelError, match="not finite"):
        list(descscore.audit(tmp_path / "site", model=model, jobs=1))


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
    make_site(tmp_path / "site", 2000, made_figures(500))
    used, process = [], psutil.Process()
    for number, _ in enumerate(descscore.audit(tmp_path / "site", model=scorer, jobs=1)):
        if number in (1000, 9999):
            used.append(process.memory_info().rss)
    assert used[1] < 1.1 * used[0]
