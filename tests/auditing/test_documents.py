"""Which documents are read of files and folders, and what is said of the others."""

from __future__ import annotations

import io
import os
import random
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from audited_documents import (
    base64_png,
    png,
    problems,
    records,
    uses,
    write_docx,
    write_epub,
    write_notebook,
    write_odt,
    write_pptx,
)

from descscore.auditing.documents import find_uses
from descscore.auditing.uses import DocumentProblem, ImageUse


def write(path: Path, text: str = "<img src='a.png'>") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def documents(*paths: Path, **options: object) -> list[str]:
    return [os.path.relpath(use.document, paths[0]) for use in uses(*paths, **options)]


def test_a_folder_is_walked_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in (
        "b.html",
        "a/c.XHTML",
        "a/d.md",
        ".git/e.html",
        "a/.f.html",
        "__MACOSX/g.html",
        "h.txt",
        "i.css",
    ):
        write(tmp_path / name)
    assert documents(tmp_path) == ["b.html", "a/c.XHTML", "a/d.md"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("build", ["a.html", "docs/b.html", "docs/b.draft.html"]),
        ("build/", ["a.html", "docs/b.html", "docs/b.draft.html"]),
        ("*.draft.html", ["a.html", "build/c.html", "docs/b.html", "docs/build/d.html"]),
        ("docs/build/*", ["a.html", "build/c.html", "docs/b.html", "docs/b.draft.html"]),
        ("./docs/b.html", ["a.html", "build/c.html", "docs/b.draft.html", "docs/build/d.html"]),
        ("none", ["a.html", "build/c.html", "docs/b.html", "docs/b.draft.html", "docs/build/d.html"]),
    ],
)
def test_patterns_exclude_files_and_folders(tmp_path: Path, pattern: str, left: list[str]) -> None:
    for name in ("a.html", "docs/b.html", "docs/b.draft.html", "docs/build/d.html", "build/c.html"):
        write(tmp_path / name)
    assert sorted(documents(tmp_path, exclude=[pattern])) == sorted(left)


def test_links_inside_are_followed_and_those_outside_are_said(tmp_path: Path) -> None:
    write(tmp_path / "outside" / "x.html")
    root = write(tmp_path / "root" / "a.html").parent
    (root / "file.html").symlink_to(tmp_path / "outside" / "x.html")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "round").symlink_to(root)
    (root / "dead.html").symlink_to(root / "none.html")
    said = {os.path.relpath(problem.document, root): problem.message for problem in problems(root)}
    assert sorted(said) == ["dead.html", "file.html", "folder"]
    assert "leads out of" in said["file.html"]
    assert "leads out of" in said["folder"]


def test_a_document_inside_a_given_folder_is_read_once(tmp_path: Path) -> None:
    page = write(tmp_path / "a" / "b.html")
    assert len(uses(tmp_path, page, page.parent, page, tmp_path)) == 1


def test_a_given_document_is_read_though_a_given_folder_passes_it_over(tmp_path: Path) -> None:
    names = [".hidden/a.html", "b.txt", ".c.html"]
    given = [write(tmp_path / name, "<html><img src='a.png'>") for name in names]
    page = write(tmp_path / "d.html")
    assert documents(tmp_path, *given, page) == ["d.html", *names]
    assert documents(tmp_path, tmp_path / ".hidden", *given) == ["d.html", *names]
    assert documents(tmp_path, *given, exclude=["*.txt", ".hidden"]) == ["d.html", ".c.html"]


def test_documents_are_told_by_their_content_where_the_ending_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "page", "<!-- x -->\n<!DOCTYPE html><img src='x.png'>")
    write_epub(tmp_path / "book", {"p.xhtml": "<img src='x.png'/>"})
    write_odt(tmp_path / "text", "<text:p><draw:frame><draw:image/></draw:frame></text:p>")
    write(tmp_path / "other.bin", "nothing")
    assert len(uses(tmp_path / "page", tmp_path / "book", tmp_path / "text")) == 3
    for path in (tmp_path / "other.bin", tmp_path / "none.html"):
        (problem,) = problems(path)
        assert problem.document == str(path)
    os.mkfifo(tmp_path / "pipe.html")
    assert [problem.document for problem in problems(tmp_path)] == [str(tmp_path / "pipe.html")]


def test_a_folder_without_documents_is_said(tmp_path: Path) -> None:
    write(tmp_path / "photos" / "a.txt")
    write(tmp_path / "site" / "a.html", "no image")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "photos", tmp_path / "empty"):
        (problem,) = problems(folder)
        assert "holds no document" in problem.message
    assert problems(tmp_path / "site") == problems(tmp_path) == []
    assert problems(tmp_path / "site", exclude=["a.html"])


def test_a_folder_that_cannot_be_opened_is_said() -> None:
    own = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "good.html").write_text("<img src='x.png'>")
        (folder / "closed").mkdir(mode=0)
        try:
            if own == 0:  # who may open everything
                os.seteuid(65534)
            found = records(folder)
            excluded = records(folder, exclude=["closed"])
        finally:
            os.seteuid(own)
    assert [one.document for one in found] == [str(folder / "good.html"), str(folder / "closed")]
    assert len(excluded) == 1


def test_a_picture_by_the_name_of_a_page_is_said(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(5000)
    for name, data in {"a.html": png() * 20, "b.md": png() * 20, "c.xhtml": noise}.items():
        (tmp_path / name).write_bytes(data)
        (problem,) = problems(tmp_path / name)
        assert "holds no text" in problem.message
    (tmp_path / "d.html").write_text("<img src='a.png'>", encoding="utf-16")
    (tmp_path / "e.html").write_bytes(b"<img src='a\0.png'>")
    assert len(uses(tmp_path / "d.html", tmp_path / "e.html")) == 2


def test_pages_in_utf_16_without_a_mark_say_so(tmp_path: Path) -> None:
    page = "<!doctype html><img src='a.png' alt='犬'>"
    for number, (name, order) in enumerate([("a.html", "le"), ("b.html", "be"), ("c.md", "le")]):
        (tmp_path / name).write_bytes(page.encode(f"utf-16-{order}"))
        (problem,) = problems(tmp_path / name)
        assert "UTF-16 without a byte order mark" in problem.message
        # Browsers know the order of bytes by the zeros of a declaration of XML.
        xml = tmp_path / f"{number}.xhtml"
        xml.write_bytes(f'<?xml version="1.0" encoding="utf-16"?>{page}'.encode(f"utf-16-{order}"))
        assert [use.name for use in uses(xml)] == ["犬"]
    book = write_epub(tmp_path / "book.epub", {"p.xhtml": page.encode("utf-16-le")})
    (problem,) = problems(book)
    assert "OPS/p.xhtml" in problem.message
    assert "byte order mark" in problem.message


def test_a_document_that_cannot_be_read_costs_its_own_record(tmp_path: Path) -> None:
    for ending in ("epub", "docx", "pptx", "odt", "ipynb"):
        write(tmp_path / f"broken.{ending}", "PK\x03\x04 no archive")
    write(tmp_path / "good.html")
    found = records(tmp_path)
    assert [type(one) for one in found] == [DocumentProblem] * 5 + [ImageUse]


def samples(folder: Path) -> dict[str, bytes]:
    """One document of each kind by its name."""
    page = (
        "<html lang=en><p>a<figure><img src=a.png alt='x'><figcaption>c</figcaption></figure><svg role=img />"
        "<a href=x><svg><use href='#u'/></svg></a><noscript><img src=a.png></noscript><g id=u><title>t"
    )
    (folder / "page.html").write_text(page)
    text = "# T\n\n![x](a.png){alt='y'} <img src=a.png>\n\n:::{figure} a.png\n:alt: z\n\nC\n:::\n"
    text += "| a |\n|-|\n| ![](a.png) |\n\n```{r}\n#| fig-alt: [x, >-]\n```\n"
    text += "{{< figure src='a.png' >}} {% include figure.html src='a.png' alt=x %}\n"
    text += "![x]({{ site.baseurl }}/a.png)\n\n!!! note\n    ![](a.png)\n\n<p markdown>\n![](a.png)\n</p>\n\n"
    text += "```{r}\ninclude_graphics(c('a.png'))\n```\n```{code-cell}\n---\nmystnb: {image: {alt: x}}\n---\n"
    text += "```\n:::{card}\n:img-top: a.png\n:::\n:::{figure}\n![](a.png)\n\nC\n:::\n"
    (folder / "text.md").write_text(text)
    write_epub(folder / "book.epub", {"p.xhtml": page}, a__png=png())
    plot = {"output_type": "display_data", "data": {"image/png": base64_png()}}
    cells = (
        {"cell_type": "markdown", "source": text},
        {"cell_type": "code", "source": "#| fig-alt: {a: b}", "outputs": [plot]},
        {"cell_type": "code", "metadata": {"mystnb": {"image": {"alt": "x"}}}, "outputs": [plot]},
    )
    write_notebook(folder / "cells.ipynb", *cells)
    write_docx(folder / "a.docx", {"descr": "A dog"})
    write_pptx(folder / "a.pptx", {"descr": "A dog"})
    frame = '<draw:frame><draw:image xlink:href="Pictures/a.png"/><svg:desc>x</svg:desc></draw:frame>'
    write_odt(folder / "a.odt", f"<text:p>{frame}</text:p>")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The document with some bytes changed, cut out, doubled or inserted."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 2, 5, 20))):
        start = dice.randrange(len(changed) + 1)
        stop = min(len(changed), start + dice.choice((1, 4, 50)))
        piece = bytes(changed[start:stop])
        new = dice.choice(
            (b"", piece * 2, dice.randbytes(3), b"<", b'"', b"\0", b"&#x", b"{", b"[", b"../", b"\xff")
        )
        changed[start:stop] = new
    return bytes(changed)


def damage(data: bytes, dice: random.Random) -> bytes:
    """A damaged document; of an archive often a member, so that it still opens."""
    if not data.startswith(b"PK") or dice.random() < 0.3:
        return mutated(data, dice)
    old, new = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    wanted = dice.choice([info.filename for info in old.infolist() if not info.filename.endswith("/")])
    with zipfile.ZipFile(new, "w") as archive:
        for info in old.infolist():
            content = old.read(info)
            archive.writestr(info.filename, mutated(content, dice) if info.filename == wanted else content)
    return new.getvalue()


def check_damaged(folder: Path, count: int) -> None:
    originals, dice = samples(folder), random.Random(0)
    for name, data in originals.items():
        for _ in range(count):
            (folder / name).write_bytes(damage(data, dice))
            for one in find_uses([folder / name]):
                if isinstance(one, DocumentProblem):
                    assert "cannot be read (" not in one.message, one  # an error that nobody has thought of
                else:
                    assert (one.image is None) == (one.image_problem is not None)
        (folder / name).write_bytes(data)


def test_damaged_documents_cost_their_own_record(tmp_path: Path) -> None:
    check_damaged(tmp_path, 15)


@pytest.mark.long
def test_many_damaged_documents_cost_their_own_record(tmp_path: Path) -> None:
    check_damaged(tmp_path, 200)


def write_pages(folder: Path, count: int) -> None:
    folder.mkdir()
    figure = "<p>{0}</p><figure><img src='{1}.png' alt='A dog runs'><figcaption>Dog</figcaption></figure>"
    for number in range(count):
        body = "".join(figure.format("Words around it. " * 40, image) for image in range(5))
        (folder / f"{number}.html").write_text(f"<!doctype html><html lang=en><body>{body}")


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_flat_over_many_pages(tmp_path: Path) -> None:
    write_pages(tmp_path / "few", 20)
    write_pages(tmp_path / "many", 200)
    few, many = (tmp_path / name for name in ("few", "many"))
    peak(lambda: sum(1 for _ in find_uses([few])))  # what the first call loads
    small = peak(lambda: sum(1 for _ in find_uses([few])))
    large = peak(lambda: sum(1 for _ in find_uses([many])))
    assert large < 1.5 * small + 200_000
