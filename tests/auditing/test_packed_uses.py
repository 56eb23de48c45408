"""Uses of images in documents that are archives or hold their images: EPUB, notebooks, DOCX, PPTX and ODT."""

from __future__ import annotations

import io
import re
import time
import zipfile
from itertools import pairwise
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
    write_zip,
)
from docx import Document
from lxml import etree
from pptx import Presentation

from descscore.auditing.uses import ImageUse
from descscore.images import load_image


def sizes(found: list[ImageUse]) -> set[tuple[int, int]]:
    return {load_image(use.image).size for use in found if use.image is not None}


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    pages = {
        "z.xhtml": '<html><body><p>One <img src="img.png" alt="first"/></p></body></html>',
        "a.xhtml": '<html lang="en"><body>\n<img src="sub/../img.png" alt="second"/></body></html>',
    }
    book = write_epub(tmp_path / "book.epub", pages, img__png=png())
    first, second = uses(book)
    assert (first.name, first.place, first.line, first.column) == ("first", "OPS/z.xhtml", 1, 20)
    assert (second.name, second.place, second.line, second.column) == ("second", "OPS/a.xhtml", 2, 1)
    assert (first.language, second.language) == ("fr", "en")
    assert first.page != second.page
    assert first.document == str(book)
    assert sizes([first, second]) == {(24, 16)}


def test_images_of_a_book_stay_in_the_book(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    names = ["../../x.png", "/x.png", "none.png", "https://example.org/x.png", "cover.svg", "encrypted.png"]
    page = "".join(f'<img src="{name}"/>' for name in names)
    book = write_epub(tmp_path / "book.epub", {"p.xhtml": page}, cover__svg="<svg/>", encrypted__png=png())
    encryption = '<encryption><CipherReference URI="OPS/encrypted.png"/></encryption>'
    with zipfile.ZipFile(book, "a") as archive:
        archive.writestr("META-INF/encryption.xml", encryption)
        archive.writestr("../x.png", png())
    found = uses(book)
    kinds = ["outside", "missing", "missing", "address", "inline-svg", "unreadable"]
    assert [use.image_problem for use in found] == kinds
    assert all(use.image is None for use in found)


def test_a_folder_for_paths_from_the_root_holds_no_images_of_archives(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    book = write_epub(tmp_path / "book.epub", {"p.xhtml": '<img src="/OPS/img.png"/>'}, img__png=png())
    (use,) = uses(book, roots={"/": tmp_path / "static"})
    assert use.image == png()


def test_a_book_without_a_package_is_read_by_its_files(tmp_path: Path) -> None:
    book = write_zip(tmp_path / "book.epub", {"p.xhtml": '<img src="a.png" alt="x"/>', "a.png": png()})
    problem, use = records(book)
    assert "META-INF/container.xml" in problem.message  # type: ignore[union-attr]
    assert isinstance(use, ImageUse)
    assert use.name == "x"


def test_a_page_of_a_book_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    bomb = "<p>" + " " * (30 << 20)
    book = write_epub(tmp_path / "book.epub", {"bomb.xhtml": bomb, "good.xhtml": '<img src="x.png"/>'})
    problem, use = records(book)
    assert "OPS/bomb.xhtml" in problem.message  # type: ignore[union-attr]
    assert isinstance(use, ImageUse)


def test_an_image_that_is_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    book = write_epub(tmp_path / "book.epub", {"p.xhtml": '<img src="a.png"/>'}, a__png=bytes(50 << 20))
    (use,) = uses(book)
    assert use.image_problem == "unreadable"
    assert "too much" in str(use.image_detail)


def test_entities_of_a_document_are_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    declared = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{tmp_path}/secret.txt"><!ENTITY a "aaaa">]>'
    for number, entity in enumerate(("&e;", "&a;")):
        path = write_odt(
            tmp_path / f"{number}.odt", "<text:p>BODY<draw:frame><draw:image/></draw:frame></text:p>"
        )
        with zipfile.ZipFile(path) as archive:
            content = (
                archive.read("content.xml").decode().replace("BODY", entity).replace("?>", f"?>{declared}", 1)
            )
        write_zip(path, {"content.xml": content})
        (use,) = uses(path)
        assert use.words_before == ""


_DEEP = "<text:p>" * 300 + "<draw:frame><draw:image/></draw:frame>" + "</text:p>" * 300
_BOMB = "".join(f'<!ENTITY {one} "{f"&{next_one};" * 10}">' for one, next_one in pairwise("abcdefgh"))


@pytest.mark.parametrize(
    ("body", "declared"), [(_DEEP, ""), ("&a;", f'<!DOCTYPE x [{_BOMB}<!ENTITY h "ha">]>')]
)
def test_what_damaged_xml_hides_is_said(tmp_path: Path, body: str, declared: str) -> None:
    frame = '<draw:frame><draw:image xlink:href="Pictures/a.png"/></draw:frame>'
    path = write_odt(tmp_path / "a.odt", f"<text:p>{frame}</text:p>{body}<text:p>{frame}</text:p>")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    content = members["content.xml"].replace(b"?>", b"?>" + declared.encode(), 1)
    (problem,) = problems(write_zip(path, members | {"content.xml": content}))
    assert "content.xml: is damaged" in problem.message


def test_many_pictures_in_one_box_or_link_are_read_in_bounds(tmp_path: Path) -> None:
    frame = '<draw:frame><draw:image xlink:href="Pictures/a.png"/></draw:frame> words '
    box = "<draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
    body = f"<text:p>{box.format(frame * 2000)}<text:a>{frame * 2000}</text:a></text:p>"
    start = time.process_time()
    assert len(uses(write_odt(tmp_path / "a.odt", body))) == 4000
    assert time.process_time() - start < 20  # reading the box anew for each takes minutes


@pytest.mark.parametrize(
    ("member", "href"),
    [("a b.xhtml", "a%20b.xhtml"), ("a%20b.xhtml", "a%20b.xhtml"), ("é.xhtml", "%C3%A9.xhtml")],
)
def test_pages_of_a_book_are_found_however_their_names_are_written(
    tmp_path: Path, member: str, href: str
) -> None:
    book = write_epub(tmp_path / "book.epub", {href: '<img src="my%20dog.png" alt="A dog"/>'})
    with zipfile.ZipFile(book) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"OPS/{member}"] = members.pop(f"OPS/{href}")
    (use,) = uses(write_zip(book, members | {"OPS/my dog.png": png()}))
    assert use.place == f"OPS/{member}"
    assert sizes([use]) == {(24, 16)}


def test_cells_of_a_notebook(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(png("blue", (7, 7)))
    attached = {"my image.png": {"image/png": base64_png()}}
    markdown = (
        "# Title\n\n![A dog](attachment:my%20image.png) and ![none](attachment:none.png)\n![](file.png)"
    )
    plot = {"output_type": "display_data", "data": {"image/png": base64_png(), "text/plain": "<Figure>"}}
    described = {
        "output_type": "execute_result",
        "data": {"image/jpeg": ["@@", "broken"]},
        "metadata": {"image/jpeg": {"alt": "A plot", "width": 640}},
    }
    html = {"output_type": "display_data", "data": {"text/html": ["<img src='file.png' ", "alt='B'>"]}}
    path = write_notebook(
        tmp_path / "book.ipynb",
        {"cell_type": "markdown", "source": markdown.splitlines(keepends=True), "attachments": attached},
        {
            "cell_type": "code",
            "source": "plot()",
            "outputs": [plot, described, html, {"output_type": "stream"}],
        },
        {"cell_type": "markdown", "source": "The end."},
    )
    dog, none, file, first, second, third = uses(path)
    assert [use.place for use in (dog, first, third)] == ["cell 1", "cell 2, output 1", "cell 2, output 3"]
    assert (dog.line, dog.column, dog.name) == (3, 1, "A dog")
    assert (none.image_problem, file.name) == ("missing", None)
    assert (first.name, first.element, first.words_before, first.words_after) == (
        *(None, "output"),
        *("Title and", "The end."),
    )
    assert (second.name, second.width, second.image_problem) == ("A plot", 640, "unreadable")
    assert third.name == "B"
    assert sizes([dog, first]) == {(24, 16)}
    assert {use.page for use in (dog, first, third)} == {str(path)}


def test_options_in_code_give_the_texts_of_its_pictures(tmp_path: Path) -> None:
    plot = {"output_type": "display_data", "data": {"image/png": base64_png()}}
    own = plot | {"metadata": {"image/png": {"alt": "Its own"}}}
    printed = {"output_type": "display_data", "data": {"text/html": "<img src='x.png'>"}}
    code = ["#| fig-alt: [A dog, A cat]\n", "#| fig-cap: One\n", "plot()"]
    path = write_notebook(
        tmp_path / "book.ipynb", {"cell_type": "code", "source": code, "outputs": [printed, plot, own]}
    )
    assert [(use.name, use.caption) for use in uses(path)] == [
        (None, None),
        ("A dog", "One"),
        ("Its own", None),
    ]


def test_metadata_of_myst_gives_the_text_of_a_cell_s_picture(tmp_path: Path) -> None:
    plot = {"output_type": "display_data", "data": {"image/png": base64_png()}}
    given = {"mystnb": {"image": {"alt": "A dog"}, "figure": {"caption": "Rex"}}}
    strange = {"mystnb": {"image": ["alt"], "figure": {"caption": 3}}}
    cells = [
        {"cell_type": "code", "source": "plot()", "metadata": metadata, "outputs": [plot]}
        for metadata in (given, strange, None)
    ]
    found = uses(write_notebook(tmp_path / "book.ipynb", *cells))
    assert [(use.name, use.caption) for use in found] == [("A dog", "Rex"), (None, None), (None, None)]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"nbformat": 3, "worksheets": []}', '{"nbformat": 4}', "[" * 9999]
)
def test_what_is_no_notebook_is_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "book.ipynb").write_text(text)
    (problem,) = problems(tmp_path)
    assert problem.document == str(tmp_path / "book.ipynb")


def test_pictures_in_word(tmp_path: Path) -> None:
    path = write_docx(tmp_path / "a.docx", {"descr": "A  dog"}, {}, {"title": "Rex"}, {"descr": ""})
    dog, bare, titled, empty = uses(path)
    assert [(use.name, use.name_from) for use in (dog, bare, titled, empty)] == [
        *(("A dog", "descr"), (None, None), ("Rex", "title"), (None, None)),
    ]
    assert (dog.alt, dog.caption, dog.place) == ("A  dog", "Caption 1", "paragraph 3")
    assert dog.words_before == "Holidays Before picture 1."
    assert dog.words_after.startswith("Caption 1 After picture 1. Before picture 2.")
    assert (dog.width, dog.language, dog.decorative, empty.decorative) == (192, "en-US", False, False)
    assert dog.source == "media/image1.png"
    assert sizes([dog, titled]) == {(24, 16)}


ADEC = "http://schemas.microsoft.com/office/drawing/2017/decorative"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"


def mark_decorative(properties: etree._Element, value: str = "1") -> None:
    extensions = etree.SubElement(properties, f"{{{DRAWING}}}extLst")
    extension = etree.SubElement(extensions, f"{{{DRAWING}}}ext")
    etree.SubElement(extension, f"{{{ADEC}}}decorative").set("val", value)


def test_the_decorative_mark_and_links_of_office(tmp_path: Path) -> None:
    document = Document(str(write_docx(tmp_path / "a.docx", {"descr": "x"}, {}, {})))
    first, second, third = (shape._inline.docPr for shape in document.inline_shapes)
    mark_decorative(first)
    mark_decorative(second, "0")
    etree.SubElement(third, f"{{{DRAWING}}}hlinkClick")
    document.save(str(tmp_path / "a.docx"))
    found = uses(tmp_path / "a.docx")
    assert [(use.decorative, use.hidden) for use in found] == [(True, True), (False, False), (False, False)]
    assert [use.only_content_of for use in found] == [None, None, "link"]


def test_deleted_pictures_and_copies_for_old_programs_are_no_uses(tmp_path: Path) -> None:
    path = write_docx(tmp_path / "a.docx", {"descr": "kept"}, {"descr": "deleted"}, {"descr": "copy"})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    body = members["word/document.xml"].decode()
    before, first, second, third = body.split("<w:drawing")
    second = f"<w:del><w:drawing{second}".replace("</w:drawing>", "</w:drawing></w:del>")
    third = f"<mc:Fallback xmlns:mc='urn:x'><w:drawing{third}".replace(
        "</w:drawing>", "</w:drawing></mc:Fallback>"
    )
    members["word/document.xml"] = f"{before}<w:drawing{first}{second}{third}".encode()
    assert [use.name for use in uses(write_zip(path, members))] == ["kept"]


def test_slides_of_a_presentation(tmp_path: Path) -> None:
    path = write_pptx(tmp_path / "a.pptx", {"descr": "A dog"}, {"descr": ""}, {})
    deck = Presentation(str(path))
    mark_decorative(deck.slides[2].shapes[1]._element.nvPicPr.cNvPr)
    order = deck.slides._sldIdLst
    order.insert(0, order[1])
    deck.save(str(path))
    moved, first, last = uses(path)
    # An empty text marks nothing as decorative in Office.
    assert (moved.place, moved.name, moved.words_before) == ("slide 1, Picture 2", None, "Title 2")
    # python-pptx writes the file's name where nothing else is given.
    assert (first.place, first.name, first.name_from) == ("slide 2, Picture 2", "A dog", "descr")
    assert first.width == 96
    assert (last.decorative, last.hidden) == (True, True)
    assert len({use.page for use in (moved, first, last)}) == 3
    assert sizes([moved]) == {(24, 16)}


def test_a_group_on_a_slide_describes_pictures_without_a_text(tmp_path: Path) -> None:
    deck = Presentation()
    shapes = deck.slides.add_slide(deck.slide_layouts[6]).shapes
    pictures = [shapes.add_picture(io.BytesIO(png()), 0, 0) for _ in range(3)]
    for picture, text in zip(pictures, ("A dog", "", " "), strict=True):
        picture._element.nvPicPr.cNvPr.set("descr", text)
    shapes.add_group_shape(pictures)._element.nvGrpSpPr.cNvPr.set("descr", "Three dogs")
    deck.save(str(tmp_path / "a.pptx"))
    assert [use.name for use in uses(tmp_path / "a.pptx")] == ["A dog", "Three dogs", "Three dogs"]


def test_an_embedded_object_on_a_slide_has_the_text_of_its_frame(tmp_path: Path) -> None:
    presentation = Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[6])
    icon = io.BytesIO(png())
    frame = slide.shapes.add_ole_object(io.BytesIO(b"x"), "Excel.Sheet.12", 0, 0, 9525 * 40, icon_file=icon)
    frame._element.nvGraphicFramePr.cNvPr.set("descr", "A table of sales")
    presentation.save(str(tmp_path / "a.pptx"))
    # PowerPoint writes the picture into the copy for old programs only, and extensions before the size.
    with zipfile.ZipFile(tmp_path / "a.pptx") as archive:
        members = {one: archive.read(one).decode("latin-1") for one in archive.namelist()}
    slide_xml = members["ppt/slides/slide1.xml"]
    before, old, after = re.split("(?s)(<p:oleObj.*</p:oleObj>)", slide_xml)
    new = re.sub("(?s)<p:pic>.*</p:pic>", "", old)
    compatible = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    copies = f'<mc:Choice Requires="v">{new}</mc:Choice><mc:Fallback>{old}</mc:Fallback>'
    both = f'<mc:AlternateContent xmlns:mc="{compatible}">{copies}</mc:AlternateContent>'
    before = before.replace("<p:nvPr/>", '<p:nvPr><p:extLst><p:ext uri="x"/></p:extLst></p:nvPr>')
    members["ppt/slides/slide1.xml"] = before + both + after
    write_zip(tmp_path / "b.pptx", {name: text.encode("latin-1") for name, text in members.items()})
    for name in ("a.pptx", "b.pptx"):
        (use,) = uses(tmp_path / name)
        assert (use.name, use.width, use.place) == ("A table of sales", 40, "slide 1, Object 1")
        assert sizes([use]) == {(24, 16)}


def test_pictures_that_fill_shapes(tmp_path: Path) -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    _, relation = slide.part.get_or_add_image_part(io.BytesIO(png()))
    fill = (
        f'<a:blipFill xmlns:a="{DRAWING}" xmlns:r="{RELATIONS}"><a:blip r:embed="{relation}"/></a:blipFill>'
    )
    for descr, text, is_filled in (
        ("A dog", "", True),
        ("", "", True),
        ("", "Words", True),
        ("x", "", False),
    ):
        shape = slide.shapes.add_textbox(0, 0, 914400, 914400)
        shape.text_frame.text = text
        shape._element.nvSpPr.cNvPr.set("descr", descr)
        if is_filled:
            shape._element.spPr.append(etree.fromstring(fill))
    deck.save(str(tmp_path / "a.pptx"))
    dog, bare = uses(tmp_path / "a.pptx")  # behind words, the picture is decoration
    assert [(use.name, use.place, use.width) for use in (dog, bare)] == [
        *(("A dog", "slide 1, TextBox 1", 96), (None, "slide 1, TextBox 2", 96)),
    ]
    assert sizes([dog, bare]) == {(24, 16)}

    path = write_docx(tmp_path / "a.docx", {"descr": "A dog"})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    body = members["word/document.xml"].decode()
    relation = body.partition('r:embed="')[2].partition('"')[0]
    start, stop = body.index("<pic:pic"), body.index("</pic:pic>") + len("</pic:pic>")
    filled = f'<wps:wsp xmlns:wps="urn:x"><wps:spPr>{fill}</wps:spPr></wps:wsp>'
    filled = re.sub('embed="[^"]*"', f'embed="{relation}"', filled)
    members["word/document.xml"] = (body[:start] + filled + body[stop:]).encode()
    (use,) = uses(write_zip(path, members))
    assert (use.name, sizes([use])) == ("A dog", {(24, 16)})


def test_pictures_of_layouts_and_backgrounds_are_no_uses(tmp_path: Path) -> None:
    deck = Presentation()
    layout = deck.slide_layouts[6]
    slide = deck.slides.add_slide(layout)
    for part, tree in ((layout.part, layout.shapes._spTree), (slide.part, slide.shapes._spTree)):
        _, relation = part.get_or_add_image_part(io.BytesIO(png()))
        picture = slide.shapes.add_picture(io.BytesIO(png()), 0, 0)._element
        picture.blipFill.blip.set(f"{{{RELATIONS}}}embed", relation)
        tree.append(picture)
    background = f'<p:bg xmlns:p="{SLIDES}"><p:bgPr>FILL</p:bgPr></p:bg>'
    fill = (
        f'<a:blipFill xmlns:a="{DRAWING}" xmlns:r="{RELATIONS}"><a:blip r:embed="{relation}"/></a:blipFill>'
    )
    slide._element.cSld.insert(0, etree.fromstring(background.replace("FILL", fill)))
    deck.save(str(tmp_path / "a.pptx"))
    assert len(uses(tmp_path / "a.pptx")) == 1


def test_a_caption_between_two_pictures_belongs_to_the_first(tmp_path: Path) -> None:
    document = Document()
    document.add_picture(io.BytesIO(png()))
    document.add_paragraph("Rex", style="Caption")
    document.add_picture(io.BytesIO(png()))
    document.save(str(tmp_path / "a.docx"))
    assert [use.caption for use in uses(tmp_path / "a.docx")] == ["Rex", None]


def test_old_pictures_in_word_have_the_text_of_their_shape(tmp_path: Path) -> None:
    path = write_docx(tmp_path / "a.docx", {"descr": "new"})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    before, rest = members["word/document.xml"].decode().split("<w:drawing", 1)
    drawing, after = rest.split("</w:drawing>", 1)
    relation = drawing.partition('r:embed="')[2].partition('"')[0]
    for attribute, name in ((' alt="A dog"', "A dog"), ("", None), (' alt=""', None)):
        shape = f'<v:shape{attribute}><v:imagedata r:id="{relation}"/></v:shape>'
        old = f'<w:pict xmlns:v="urn:schemas-microsoft-com:vml">{shape}</w:pict>'
        (use,) = uses(write_zip(path, members | {"word/document.xml": (before + old + after).encode()}))
        assert use.name == name
        assert sizes([use]) == {(24, 16)}


def test_frames_of_an_open_document(tmp_path: Path) -> None:
    picture = '<draw:image xlink:href="Pictures/a.png"/>'
    body = f"""<text:h>Title</text:h><text:p>One <draw:frame svg:width="2.54cm">{picture}
    <svg:title>Rex</svg:title><svg:desc>A dog runs</svg:desc></draw:frame> two</text:p>
    <text:p><draw:frame><draw:text-box><text:p><draw:frame>{picture}<svg:desc>Cat</svg:desc></draw:frame>
    Figure 1: a cat</text:p></draw:text-box></draw:frame></text:p>
    <text:p><draw:frame loext:decorative="true">{picture}</draw:frame></text:p>
    <text:p><text:a><draw:frame><draw:image xlink:href="../a.png"/></draw:frame></text:a></text:p>"""
    dog, cat, plain, linked = uses(write_odt(tmp_path / "a.odt", body))
    assert (dog.name, dog.name_from, dog.width, dog.place) == ("Rex", "title", 96, "paragraph 2")
    assert (dog.words_before, dog.words_after) == ("Title One", "two Figure 1: a cat")
    assert (cat.name, cat.name_from, cat.caption) == ("Cat", "desc", "Figure 1: a cat")
    assert (plain.name, plain.decorative, plain.hidden) == (None, True, True)
    assert (linked.only_content_of, linked.image_problem) == ("link", "outside")
    assert sizes([dog, cat]) == {(24, 16)}


def test_an_encrypted_document_says_so(tmp_path: Path) -> None:
    path = write_odt(tmp_path / "a.odt", "")
    manifest = """<m:manifest xmlns:m="urn:x"><m:file-entry m:full-path="content.xml"><m:encryption-data/>
    </m:file-entry></m:manifest>"""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("META-INF/manifest.xml", manifest)
    (tmp_path / "b.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert ["encrypted" in problem.message for problem in problems(tmp_path)] == [True, True]
