"""Which file a source means, and that nothing outside the audited folder is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited_documents import base64_png, png, uses

from descscore.auditing.uses import ImageUse
from descscore.images import load_image


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    for name in ("a.png", "docs/b c.png", "docs/d.png?v=1", "docs/é.png", "img/e.png", "docs/100%.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "docs" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "docs" / "inside.png").symlink_to(folder / "a.png")
    (folder / "docs" / "empty.png").write_bytes(b"")
    return folder


def use_of(site: Path, source: str, head: str = "", **options: object) -> ImageUse:
    (site / "docs" / "page.html").write_text(f'{head}<img src="{source}">')
    (use,) = uses(site, **options)
    return use


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("b c.png", "docs/b c.png"),
        ("b%20c.png", "docs/b c.png"),
        ("./b%20c.png#part", "docs/b c.png"),
        (" b c.png?width=3 ", "docs/b c.png"),
        ("d.png?v=1", "docs/d.png?v=1"),
        ("%C3%A9.png", "docs/é.png"),
        ("100%.png", "docs/100%.png"),
        ("../a.png", "a.png"),
        ("..\\img\\e.png", "img/e.png"),
        ("/img/e.png", "img/e.png"),
        ("//", None),
        ("inside.png", "docs/inside.png"),
    ],
)
def test_a_source_leads_to_its_file(site: Path, source: str, file: str | None) -> None:
    use = use_of(site, source)
    assert (use.source, use.image) == (source, file and str(site / file))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "missing"),
        ("#top", "missing"),
        ("none.png", "missing"),
        ("a\0b.png", "missing"),
        ("%00", "missing"),
        ("http://[", "missing"),
        ("x" * 5000, "unreadable"),
        ("empty.png", "unreadable"),
        ("../img", "unreadable"),
        ("data:image/png;base64,", "unreadable"),
        ("data:image/png;base64,a", "unreadable"),
        ("data:image/svg+xml,<svg/>", "inline-svg"),
        ("../../secret.png", "outside"),
        ("%2e%2e/%2e%2e/secret.png", "outside"),
        ("/../secret.png", "outside"),
        ("link.png", "outside"),
        ("file:///etc/passwd", "outside"),
        ("C:\\Users\\me\\a.png", "outside"),
        ("https://example.org/a.png", "address"),
        ("//example.org/a.png", "address"),
        ("cid:part1", "address"),
        ("{{ page.image }}", "template"),
        ("img/{{name}}.png", "template"),
        ("img/icon_{{name}}.png", "template"),
        ("${base}/a.png", "template"),
        ("{% static 'a.png' %}", "template"),
        ("<?php echo $image ?>", "template"),
        ("<%= image %>", "template"),
        ("blob:https://example.org/1", "address"),
    ],
)
def test_a_source_that_leads_to_no_image_says_why(site: Path, source: str, problem: str) -> None:
    use = use_of(site, source)
    assert (use.image, use.image_problem) == (None, problem)
    assert use.image_detail
    assert len(use.image_detail) < 400


def test_a_data_address_is_read_and_cut(site: Path) -> None:
    use = use_of(site, f"data:image/png;base64,{base64_png()}")
    assert load_image(use.image).size == (24, 16)  # type: ignore[arg-type]
    assert use.source == f"data:image/png;base64,{base64_png()}"[:60]
    assert use_of(site, "data:image/png,%89PNG").image == b"\x89PNG"


def test_base_href_counts(site: Path) -> None:
    assert use_of(site, "e.png", '<base href="../img/">').image == str(site / "img/e.png")
    assert use_of(site, "e.png", '<base href="/img/x.html">').image == str(site / "img/e.png")
    assert use_of(site, "e.png", '<base href="https://example.org/">').image_problem == "address"
    assert use_of(site, "e.png", '<base href="../../">').image_problem == "outside"


def test_roots_map_addresses_to_folders(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "f.png").write_bytes(png())
    roots = {"https://Example.org/": site, "https://example.org/cdn": other}
    assert use_of(site, "http://example.org/a.png?x=1", roots=roots).image == str(site / "a.png")
    assert use_of(site, "//EXAMPLE.org/cdn/f.png", roots=roots).image == str(other / "f.png")
    assert use_of(site, "https://example.org/cdn/../../secret.png", roots=roots).image_problem == "outside"
    assert use_of(site, "https://example.org.evil/a.png", roots=roots).image_problem == "address"
    assert use_of(site, "https://example.org/none.png", roots=roots).image_problem == "missing"


def test_a_document_given_by_itself_may_use_the_current_folder(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = site / "docs" / "page.html"
    page.write_text('<img src="../a.png"><img src="/img/e.png"><img src="../../secret.png">')
    assert [use.image_problem for use in uses(page)] == ["outside", "missing", "outside"]
    monkeypatch.chdir(site)
    assert [use.image_problem for use in uses(Path("docs/page.html"))] == [None, None, "outside"]


@pytest.mark.parametrize("folder", ["static", "public"])
def test_paths_from_the_root_are_looked_for_where_site_generators_keep_them(site: Path, folder: str) -> None:
    (site / folder).mkdir()
    (site / folder / "f.png").write_bytes(png())
    (site / folder / "g.png").symlink_to(site.parent / "secret.png")
    assert use_of(site, "/f.png?x").image == str(site / folder / "f.png")
    assert use_of(site, "f.png").image_problem == "missing"
    assert use_of(site, "/g.png").image_problem == "outside"
    assert use_of(site, "/../secret.png").image_problem == "outside"
    # A folder that is given is the only one.
    assert use_of(site, "/f.png", roots={"/": site / "img"}).image_problem == "missing"
    assert "--root" in str(use_of(site, "/none.png").image_detail)
