"""Uses of images in HTML: what is an image, its accessible name, what hides it, and where it stands.

The examples follow the W3C's ACT rules 23a2a8, 59796f, 7d6734, 9eb3f6, e88epe and 46ca7f: each has cases that
pass, fail, and to which it does not apply.
"""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

import pytest
from audited_documents import png, problems, records, uses
from hypothesis import given
from hypothesis import strategies as st

from descscore.auditing.html import srcset_urls
from descscore.auditing.html_tree import Element, decode, parse
from descscore.auditing.uses import ImageUse


def one(folder: Path, html: str) -> ImageUse:
    """The only use on a page."""
    (use,) = page(folder, html)
    return use


def page(folder: Path, html: str) -> list[ImageUse]:
    (folder / "a.png").write_bytes(png())
    (folder / "page.html").write_text(html)
    return uses(folder / "page.html")


@pytest.mark.parametrize(
    ("html", "name", "source"),
    [
        # 23a2a8, passed: an accessible name.
        ('<img src="a.png" alt="W3C logo">', "W3C logo", "alt"),
        ('<img src="a.png" aria-label="W3C logo">', "W3C logo", "aria-label"),
        ('<img src="a.png" title="W3C logo">', "W3C logo", "title"),
        (
            '<div id="l">W3C  <b>logo</b></div><img src="a.png" aria-labelledby="l">',
            "W3C logo",
            "aria-labelledby",
        ),
        ('<img src="a.png" aria-labelledby="x y"><p id="y">y</p><p id="x">x</p>', "x y", "aria-labelledby"),
        (
            '<div role="img" aria-label="W3C logo" style="background:url(a.png)"></div>',
            "W3C logo",
            "aria-label",
        ),
        # The order of HTML: labelledby, label, alt, title; one that leads nowhere does not count.
        ('<img src="a.png" aria-labelledby="x" aria-label="l" alt="a" title="t">', "l", "aria-label"),
        ('<img src="a.png" aria-label=" " alt="a" title="t">', "a", "alt"),
        ('<img src="a.png" alt="" title="t">', "", "alt"),
        ('<img src="a.png" alt=" " title="t">', "t", "title"),
        # 23a2a8, failed: neither a name nor a mark.
        ('<img src="a.png">', None, None),
        ('<div role="img"></div>', None, None),
        ('<img src="a.png" alt=" ">', "", "alt"),
        ('<img src="a.png" aria-labelledby="nowhere">', None, None),
        # 59796f: image buttons.
        ('<input type="image" src="a.png" alt="Search">', "Search", "alt"),
        ('<input type="IMAGE" src="a.png" aria-label="Search">', "Search", "aria-label"),
        ('<input type="image" src="a.png" alt="" title="Search">', "Search", "title"),
        ('<input type="image" src="a.png" alt="">', "", "alt"),
        ('<input type="image" src="a.png" name="search">', None, None),
        # 7d6734: SVG with a role.
        ('<svg role="img" aria-label="circle"><circle r="1"/></svg>', "circle", "aria-label"),
        ('<svg role="img"><title>circle</title><circle r="1"/></svg>', "circle", "svg title"),
        ('<div role="\n img none" aria-label="circle"></div>', "circle", "aria-label"),
        ('<svg role="graphics-document" title="t"><circle r="1"/></svg>', "t", "title"),
        (
            '<svg><circle role="graphics-symbol" r="1"><title>circle</title></circle></svg>',
            "circle",
            "svg title",
        ),
        ('<svg role="img"><circle r="1"/></svg>', None, None),
        ('<svg role="img"><title></title><circle r="1"/></svg>', "", "svg title"),
        ('<svg><circle role="graphics-symbol" r="1"/></svg>', None, None),
        # Objects and areas.
        ('<object data="a.png" type="image/png">A <i>cat</i></object>', "A cat", "content"),
        ('<object data="a.png" title="cat"></object>', "cat", "title"),
        ('<embed src="a.png" aria-label="cat">', "cat", "aria-label"),
    ],
)
def test_the_accessible_name_comes_by_the_order_of_html(
    tmp_path: Path, html: str, name: str | None, source: str | None
) -> None:
    use = one(tmp_path, html)
    assert (use.name, use.name_from) == (name, source)
    assert not use.hidden


@pytest.mark.parametrize(
    "html",
    [
        "<p>no image</p>",
        "<svg><circle r='1'/></svg>",
        "<input type='text'>",
        "<p style='background-image: url(a.png)'>text</p>",
        "<!-- <img src='a.png'> -->",
        "<script>document.write('<img src=a.png>')</script>",
        "<textarea><img src='a.png'></textarea>",
        "<template><img src='a.png'></template>",
        "<video poster='a.png'></video><canvas></canvas>",
        "<svg role='none'><circle r='1'/></svg>",
        "<object data='clip.mp4'></object>",
        "<area href='/x' alt='no map shows it'>",
        "&lt;img src='a.png'>",
        "<img src='a.png' alt='the page ends here",
    ],
)
def test_what_is_no_image_gives_no_use(tmp_path: Path, html: str) -> None:
    assert page(tmp_path, html) == []


@pytest.mark.parametrize(
    ("html", "hidden", "decorative", "exposed_by"),
    [
        # 46ca7f and e88epe: marks that work ...
        ('<img src="a.png" alt="">', False, True, None),
        ('<img src="a.png" role="presentation">', False, True, None),
        ('<img src="a.png" role="none" alt="x">', False, True, None),
        ('<img src="a.png" aria-hidden="true" alt="x">', True, False, None),
        ('<div aria-hidden="true"><p><img src="a.png" alt="x"></p></div>', True, False, None),
        # ... and marks that another attribute undoes.
        ('<img src="a.png" alt="" tabindex="0">', False, True, "tabindex"),
        ('<svg role="presentation" tabindex="0"><circle r="1"/></svg>', False, True, "tabindex"),
        # What nobody meets is not exposed.
        ('<img src="a.png" alt="" aria-hidden="true" aria-label="x">', True, True, None),
        ('<img src="a.png" alt="" style="display:none" tabindex="0">', True, True, None),
        ('<img src="a.png" alt="" aria-label="x">', False, True, "aria-label"),
        ('<img src="a.png" role="none" aria-labelledby="x"><p id="x">x</p>', False, True, "aria-labelledby"),
        ('<img src="a.png" alt="x">', False, False, None),
        ('<img src="a.png" alt=" ">', False, False, None),
        # Nobody meets these.
        ('<img src="a.png" hidden>', True, False, None),
        ('<img src="a.png" style="color: red; DISPLAY : none">', True, False, None),
        ('<div style="visibility:hidden"><img src="a.png"></div>', True, False, None),
        ('<section inert><img src="a.png" alt="x"></section>', True, False, None),
        ('<img src="a.png" hidden="until-found">', False, False, None),
        ('<img src="a.png" aria-hidden="false">', False, False, None),
    ],
)
def test_marks_that_hide_or_decorate(
    tmp_path: Path, html: str, hidden: bool, decorative: bool, exposed_by: str | None
) -> None:
    use = one(tmp_path, html)
    assert (use.hidden, use.decorative, use.exposed_by) == (hidden, decorative, exposed_by)


def test_alt_is_kept_as_written_and_the_name_is_trimmed(tmp_path: Path) -> None:
    use = one(tmp_path, '<img src="a.png" alt=" A &amp; B\n c ">')
    assert (use.alt, use.name) == (" A & B\n c ", "A & B c")
    assert one(tmp_path, '<img src="a.png" alt>').alt == ""


@pytest.mark.parametrize(
    ("html", "kinds"),
    [
        ('<a href="/"><img src="a.png" alt="Home"></a>', ["link"]),
        ('<a href="/"> <b><img src="a.png" alt=""></b> </a>', ["link"]),
        ("<a href=/><img src=a.png alt=Home></a>", ["link"]),
        ('<button><img src="a.png"></button>', ["button"]),
        ('<span role="link" tabindex="0"><img src="a.png"></span>', ["link"]),
        ('<input type="image" src="a.png">', ["button"]),
        ('<img role="button" src="a.png" alt="Go">', ["button"]),
        ('<a href="/"><img src="a.png" alt=""> Home</a>', [None]),
        ('<a href="/" aria-label="Home"><img src="a.png" alt=""></a>', [None]),
        ('<a href="/" title="Home"><img src="a.png" alt=""></a>', [None]),
        ('<a name="x"><img src="a.png" alt=""></a>', [None]),
        ('<p><img src="a.png" alt=""></p>', [None]),
        ('<a href="/"><img src="a.png" alt=""><img src="a.png" alt="Home"></a>', [None, "link"]),
        ('<a href="/"><img src="a.png" alt="A"><img src="a.png" alt="B"></a>', [None, None]),
        ('<a href="/"><img src="a.png"><img src="a.png" alt=""></a>', ["link", "link"]),
        ('<a href="/"><img src="a.png"><span aria-hidden="true">x</span></a>', ["link"]),
        ('<a href="/"><img src="a.png"></a><a href="/">text</a>', ["link"]),
        ('<a href=/><img src=a.png alt=""></a>', ["link"]),
        # A drawing without a name counts where nothing else names the link.
        ('<a href="/"><svg><path d=""/></svg></a>', ["link"]),
        ("<button><svg><use href='#x'/></svg></button>", ["button"]),
        ('<g id="o"><title>Go</title></g><button><svg><use href="go"/></svg></button>', ["button"]),
        ('<a href="/"><svg><path d=""/></svg> Home</a>', []),
        ('<a href="/" aria-label="Home"><svg><path d=""/></svg></a>', []),
        ('<a href="/"><svg><text>Home</text></svg></a>', []),
        ('<a href="/"><svg><g><title>Home</title></g></svg></a>', []),
        ('<a href="/" aria-hidden="true"><svg><path d=""/></svg></a>', []),
        ('<a href="/"><span aria-label="Home"><svg><path d=""/></svg></span></a>', []),
        ('<a href="/"><img src="a.png" alt="">&#8203;&nbsp;</a>', ["link"]),
        ('<a href="/" aria-label="&#8203;"><img src="a.png" alt=""></a>', ["link"]),
        ('<summary><img src="a.png" alt=""></summary>', ["button"]),
        ('<li role="menuitem"><img src="a.png" alt=""></li>', ["button"]),
        # Drawings of the page that are shown again.
        (
            '<svg hidden><g id="x"><title>Go</title></g></svg><button><svg><use href="#x"/></svg></button>',
            [],
        ),
        (
            '<svg hidden><g id="x"><path/></g></svg><button><svg><use href="#x"/></svg></button>',
            ["button"],
        ),
        # What screen readers do not meet names nothing.
        ('<a href="/"><svg aria-hidden="true"><title>Home</title></svg></a>', ["link"]),
        ('<a href="/"><svg aria-hidden="true"><path d=""/></svg></a>', ["link"]),
        ('<button><img src="a.png" alt="Go" aria-hidden="true"></button>', ["button"]),
        ('<button><img src="a.png" alt="Go" aria-hidden="true"> Go</button>', [None]),
        ('<a href="/"><img src="a.png" alt="x" aria-hidden="true"><img src="a.png"></a>', ["link", "link"]),
        (
            '<a href="/"><img src="a.png" alt="x" aria-hidden="true"><img src="a.png" alt="Home"></a>',
            [None, "link"],
        ),
        ('<a href="/" aria-hidden="true"><img src="a.png" aria-hidden="true"></a>', [None]),
        ('<a href="/"><img src="a.png" hidden></a>', [None]),  # a script may show it
        ('<a href="/"><b role="img"><img src="a.png"></b></a>', ["link", None]),
        # Icons of a font.
        ('<a href="/"><i class="fa fa-home"></i></a>', ["link"]),
        ('<button><span class="navbar-toggler-icon" aria-hidden="true"></span></button>', ["button"]),
        ('<a href="/"><i class="fa fa-home"></i> Home</a>', []),
        ('<a href="/"><i class="fa fa-home" title="Home"></i></a>', []),
        ('<a href="/" aria-label="Home"><i class="fa fa-home"></i></a>', []),
        ('<a href="/"><i class="material-icons">home</i></a>', []),  # the font draws what is read out
        ('<a href="/"><span class="wide"></span></a>', []),
        ('<p><i class="fa fa-home"></i></p>', []),
        ('<a href="/"><img src="a.png"><a href="/">text</a>', ["link"]),  # an end tag is missing
    ],
)
def test_an_image_that_is_all_a_link_or_button_holds(
    tmp_path: Path, html: str, kinds: list[str | None]
) -> None:
    assert [use.only_content_of for use in page(tmp_path, html)] == kinds


def test_copies_for_readers_without_script_are_no_further_uses(tmp_path: Path) -> None:
    late = '<img src="data:image/gif;base64,R0lGOD" data-src="a.png" alt="A dog">'
    for html in (
        f'{late}<noscript><img src="a.png" alt="A dog"></noscript>',
        f'<noscript><img src="a.png" alt="A dog"></noscript>{late}',
        '<img srcset="b.png 1x, a.png 2x" alt="A dog"><noscript><img src="a.png"></noscript>',
        '<img src="blank.gif" data-src="a.png" alt="A dog"><noscript><img src="a.png"></noscript>',
    ):
        assert one(tmp_path, html).name == "A dog"
    linked = one(tmp_path, f'<a href="/">{late}<noscript><img src="a.png" alt="A dog"></noscript></a>')
    assert linked.only_content_of == "link"
    assert one(tmp_path, '<noscript><img src="a.png"></noscript>').source == "a.png"
    # Pictures without a source are no copies of one another.
    drawn = '<svg role="img" aria-label="{}"></svg>'
    both = page(tmp_path, f"{drawn.format('A dog')}<noscript>{drawn.format('A cat')}</noscript>")
    assert [use.name for use in both] == ["A dog", "A cat"]


def test_a_shadow_tree_in_the_page_is_read(tmp_path: Path) -> None:
    html = (
        '<x-card><template shadowrootmode="open"><p>In</p><img src="a.png" alt="A dog"></template></x-card>'
    )
    use = one(tmp_path, html)
    assert (use.name, use.words_before) == ("A dog", "In")


def test_attributes_that_a_program_fills_in_are_templates(tmp_path: Path) -> None:
    for attributes in (":src='u' :alt='t'", "v-bind:src='u' v-bind:alt='t'", "[src]='u' [attr.alt]='t'"):
        use = one(tmp_path, f"<img {attributes}>")
        assert (use.name, use.source, use.image_problem) == ("{{ t }}", "{{ u }}", "template")
    assert one(tmp_path, "<img src='a.png' :alt='t' alt='A dog'>").name == "A dog"


def test_an_area_shows_the_picture_of_its_map(tmp_path: Path) -> None:
    html = '<map name="m"><area href="/n" alt="North"></map><img src="a.png" usemap="#m" alt="Map">'
    area, image = page(tmp_path, html)
    assert (area.element, area.name, area.source, area.only_content_of) == ("area", "North", "a.png", "link")
    assert area.image == image.image == str(tmp_path / "a.png")


def test_what_an_element_with_role_img_holds_is_part_of_one_picture(tmp_path: Path) -> None:
    outer, star = page(tmp_path, '<div role="img" aria-label="3 stars"><img src="a.png" alt="star">x</div>')
    assert (outer.element, outer.name, outer.hidden) == ("role", "3 stars", False)
    assert outer.image == str(tmp_path / "a.png")
    assert star.hidden


def test_a_cover_in_svg_is_its_picture_and_a_drawing_is_not_rendered(tmp_path: Path) -> None:
    cover = one(tmp_path, '<svg aria-label="Cover"><image xlink:href="a.png" width="9"/></svg>')
    assert (cover.element, cover.name, cover.image) == ("svg", "Cover", str(tmp_path / "a.png"))
    drawing = one(tmp_path, '<svg role="img"><title>Circle</title><circle/></svg>')
    assert (drawing.image, drawing.image_problem) == (None, "inline-svg")
    (tmp_path / "b.svg").write_text("<svg/>")
    assert one(tmp_path, '<img src="b.svg" alt="x">').image_problem == "inline-svg"


def test_captions_and_words_around(tmp_path: Path) -> None:
    html = """<title>not seen</title><p>One <b>tw</b>o<p>three<figure><div><img src="a.png" alt="Dog"></div>
    <figcaption>A <em>dog</em><aside>note</aside><b hidden>not seen</b></figcaption></figure>
    <p hidden>not seen</p><style>p {}</style>four<br>five"""
    use = one(tmp_path, html)
    assert (use.caption, use.words_before, use.words_after) == (
        "A dog",
        "One two three",
        "A dog note four five",
    )
    long = one(tmp_path, f"{'begin ' * 90}<img src='a.png'>{'end ' * 90}")
    assert long.words_before == " ".join(["begin"] * 33)
    assert long.words_after == " ".join(["end"] * 50)
    nested = (
        '<figure><figure><img src="a.png"></figure><img src="a.png"><figcaption>Both</figcaption></figure>'
    )
    assert [use.caption for use in page(tmp_path, nested)] == ["Both", "Both"]
    gallery = f"<figure>{nested}<figure><img src='a.png'></figure></figure>"
    assert [use.caption for use in page(tmp_path, gallery)] == ["Both", "Both", None]


def test_the_nearest_language_counts(tmp_path: Path) -> None:
    image = '<img src="a.png">'
    html = f'<html lang="en"><p xml:lang="ja">{image}</p><p lang="">{image}</p>{image}'
    assert [use.language for use in page(tmp_path, html)] == ["ja", None, "en"]


def test_a_page_in_a_frame_is_read_where_the_frame_stands(tmp_path: Path) -> None:
    inner = "<p>In <img src='a.png' alt='A &quot;dog&quot;'> the frame</p>"
    html = f'<html lang="de"><p>Before</p>\n<iframe srcdoc="{inner}"></iframe><img src="a.png">'
    dog, last = page(tmp_path, html)
    assert (dog.name, dog.line, dog.column, dog.language) == ('A "dog"', 2, 1, "de")
    assert (dog.words_before, dog.words_after) == ("In", "the frame")
    assert (dog.image, last.words_before) == (str(tmp_path / "a.png"), "Before")
    (hidden,) = page(tmp_path, '<div hidden><iframe srcdoc="<img src=a.png>"></iframe></div>')
    assert hidden.hidden
    nested = "<img src=a.png>"
    for _ in range(50):
        nested = f'<iframe srcdoc="{escape(nested)}"></iframe>' if len(nested) < 200_000 else nested
    assert page(tmp_path, nested) == []


def test_declared_sizes(tmp_path: Path) -> None:
    html = '<img src="a.png" width="48" height="50%"><img src="a.png" width=9 style="width: 20px">'
    assert [(use.width, use.height) for use in page(tmp_path, html)] == [(48, None), (20, None)]


def test_srcset_and_picture_give_candidates(tmp_path: Path) -> None:
    html = """<picture><source srcset="big.avif 2x, small.avif">
    <img src="a.png" srcset="a.png 1x, b.png 2x"></picture>
    <img srcset="a.png 100w, b.png 200w"><img src="data:image/gif;base64,R0lGOD" data-src="a.png">"""
    first, second, lazy = page(tmp_path, html)
    assert (first.source, first.candidates) == ("a.png", ("b.png", "big.avif", "small.avif"))
    assert (second.source, second.candidates) == ("a.png", ("b.png",))
    assert lazy.source == "a.png"
    assert srcset_urls("data:image/png;base64,iVBO,x 1x, a,b.png 2x,c.png") == [
        "data:image/png;base64,iVBO,x",
        "a,b.png",
        "c.png",
    ]
    assert srcset_urls(" , a.png, b.png 1x (x, y), c.png,, d.png") == ["a.png", "b.png", "c.png", "d.png"]
    for part in (",", "a(", "a ", "a, "):  # in time that grows no faster than their length
        assert len(srcset_urls(part * 300_000)) <= 100


def test_line_and_column_point_at_the_tag(tmp_path: Path) -> None:
    html = '<!doctype html>\r\n<!-- <img> -->\n<p>ä€𝄞<img src="a.png"\n alt="a\nb"><IMG SRC=a.png></p>\n\n'
    html += "  <img src=a.png>"
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "page.html").write_text(html, newline="")
    places = [(use.line, use.column) for use in uses(tmp_path / "page.html")]
    assert places == [(3, 7), (5, 4), (7, 3)]


@given(
    st.lists(
        st.sampled_from(["<p>", "</p>", "\n", "ü", "<li>", "<b", ">", '<i x="', '"', "<!--", "-->", "</"])
    )
)
def test_every_tag_stands_where_it_says(parts: list[str]) -> None:
    text = "".join([*parts, '"><x-y>'])
    lines = text.split("\n")
    for node in parse(text).descendants():
        if isinstance(node, Element):
            assert lines[node.line - 1][node.column - 1 :].startswith(f"<{node.name}")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é".encode(), "é"),
        (b"\xef\xbb\xbf" + "é".encode(), "é"),
        ("é".encode("utf-16"), "é"),
        ("é".encode("latin-1"), "é"),
        (b'<meta charset="shift_jis">' + "犬".encode("shift_jis"), '<meta charset="shift_jis">犬'),
        (b"<meta charset=iso-8859-1>\x93", "<meta charset=iso-8859-1>“"),
        (b'<meta charset="utf-8">\xff', '<meta charset="utf-8">\ufffd'),
        (b'<?xml version="1.0" encoding="koi8-r"?>\xc1', '<?xml version="1.0" encoding="koi8-r"?>\u0430'),
        (b'<meta charset="no such">\xff', '<meta charset="no such">ÿ'),
    ],
)
def test_pages_are_decoded_as_browsers_do(data: bytes, text: str) -> None:
    assert decode(data) == text


@pytest.mark.parametrize(
    "part",
    [
        "<div>",
        "<!--",
        "<a href='",
        '<a b="',
        "<![CDATA[",
        "<b><p>",
        "<",
        "</",
        "&",
        "<title>",
        "<a ",
        "<svg>",
    ],
)
def test_a_hostile_page_is_read_in_bounds(tmp_path: Path, part: str) -> None:
    html = part * 20_000
    records_of_page = page(tmp_path, f"<img src=a.png>{html}<img src=a.png>")
    assert 1 <= len(records_of_page) <= 2


@pytest.mark.parametrize("tag", ["<svg>", "<div role=img>", "<object data=a.png>", "<svg role=img>"])
def test_drawings_inside_one_another_are_read_in_bounds(tmp_path: Path, tag: str) -> None:
    html = (tag * 500 + "<p>" * 5000 + f"</{tag[1:4]}>" * 500) * 4 + "<img src=a.png alt='A dog'>"
    start = time.process_time()
    page(tmp_path, html)
    assert time.process_time() - start < 8  # minutes, where each drawing is searched anew
    style = "background:x " * 30_000
    assert one(tmp_path, f'<div role="img" style="{style}"></div>').source == ""


def test_a_page_with_too_many_elements_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descscore.auditing.html_tree.MOST_ELEMENTS", 100)
    (tmp_path / "big.html").write_text("<p>" * 101)
    (tmp_path / "good.html").write_text("<img src='x.png'>")
    first, second = records(tmp_path)
    assert problems(tmp_path) == [first]
    assert isinstance(second, ImageUse)
