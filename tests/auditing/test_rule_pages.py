"""The page on the rules has a section for each rule, and its examples fail and pass as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import descscore
from descscore.auditing.rules import RULES
from pictures import make_photo

PAGE = (Path(__file__).parents[2] / "docs/audit_rules.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([TFPD]\d\d) (.*?)(?=^## |\Z)", PAGE, re.M | re.S))
EXAMPLES = {code: re.findall(r"```html\n(.*?)\n```", text, re.S) for code, text in SECTIONS.items()}


def found(folder: Path, example: str) -> set[str]:
    folder.mkdir()
    for seed, name in enumerate(("dog.jpg", "cat.jpg", "home.png", "line.png")):
        make_photo(folder / name, seed)
    (folder / "broken.jpg").write_bytes((folder / "dog.jpg").read_bytes()[:99])
    (folder / "page.html").write_text(f'<html lang="en"><title>x</title><p>Text</p>{example}</html>')
    return {one.code for use in descscore.audit(folder, model=None, select=["all"]) for one in use.findings}


def test_every_rule_has_a_section_with_its_name_severity_and_reason() -> None:
    assert list(SECTIONS) == [rule.code for rule in RULES]
    for rule in RULES:
        text = SECTIONS[rule.code]
        assert text.startswith(f"{rule.name}\n")
        assert f"**{rule.severity}**: {rule.title}. {rule.reason}" in text


@pytest.mark.parametrize("code", [code for code, examples in EXAMPLES.items() if examples])
def test_the_first_example_of_a_rule_fails_by_it_alone_and_the_second_passes(
    tmp_path: Path, code: str
) -> None:
    wrong, right = EXAMPLES[code]
    assert found(tmp_path / "wrong", wrong) == {code}
    assert found(tmp_path / "right", right) == set()


def test_every_rule_without_a_model_has_examples() -> None:
    assert {code for code, examples in EXAMPLES.items() if not examples} == {"P01", "P02", "P03", "D01"}
