"""Who judges in a study: pseudonyms, resume codes, accounts, and forms that are sent twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from descscore.study.judgments import Profile, PseudonymTaken, new_code, pseudonym_key, tidy_pseudonym
from study_tools import make_store


def test_codes_lead_back_and_nothing_else_does(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first, code = store.register(Profile("Ann", "blind", "always", "I agree."))
    _, other = store.register(Profile("Bo", "sighted", "never", "I agree."))
    assert store.by_code(code) == first
    assert store.by_code(f" {code.upper().replace('-', ' ')} ") == first
    assert store.by_code(other).pseudonym == "Bo"
    assert store.by_code("") is store.by_code(new_code()) is None
    assert code.encode() not in store.path.read_bytes()
    with pytest.raises(PseudonymTaken):
        store.register(Profile(" aNN ", "blind", "always", "I agree."))
    assert store.register(Profile("Cy", "blind", "often", "Yes."), account="cy@x")[1] is None
    assert store.by_account("cy@x").pseudonym == "Cy"


def test_a_form_that_is_sent_twice_makes_one_annotator(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    code = new_code()
    ann, bo = Profile("Ann", "blind", "always", "I agree."), Profile("Bo", "sighted", "never", "I agree.")
    first = store.register(ann, code=code)
    assert first[1] == code
    assert store.register(ann, code=code) == first
    assert store.register(bo, code=code) == first  # the code decides, not what is typed beside it
    assert store.register(bo, account="bo@x") == store.register(ann, account="bo@x")
    assert [store.by_pseudonym(name) is None for name in ("Ann", "Bo")] == [False, False]
    for forged in ("", "aaaa", "0000-0000-0000-0000", code + "a"):  # no code of ours: a new one is made
        made = store.register(Profile(f"P{len(forged)}", "blind", "often", "Yes."), code=forged)[1]
        assert made not in ("", forged)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (" Ann ", "Ann"),
        ("Ann\u00a0 B.", "Ann B."),
        ("Zoe\u0308", "Zo\u00eb"),
        ("अंजलि", "अंजलि"),
        ("สมชาย", "สมชาย"),
        ("ליאת-2", "ליאת-2"),
        ("7", "7"),
        ("x" * 40, "x" * 40),
        ("x" * 41, None),
        ("=1+1", None),
        ("-1", None),
        ("@SUM(A1)", None),
        ("<b>Ann", None),
        ("A,B", None),
        ("A\u200dn", None),
        ("A\u202en", None),
        ("A\0n", None),
        ("\u0301a", None),
        (" ", None),
    ],
)
def test_pseudonyms_are_names_in_any_script_and_nothing_else(typed: str, name: str | None) -> None:
    assert tidy_pseudonym(typed) == name


def test_pseudonyms_that_look_the_same_are_the_same() -> None:
    for other in ("ANN B.", "ann  b.", "\uff21\uff4e\uff4e B.", " Ann\tB. "):
        assert pseudonym_key(other) == pseudonym_key("Ann B.")
    assert pseudonym_key("Ann B") != pseudonym_key("AnnB")
