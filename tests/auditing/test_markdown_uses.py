"""Uses of images in Markdown: brackets, attributes, figures, HTML inside, and their places."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from audited_documents import png, uses
from hypothesis import given
from hypothesis import strategies as st

from descscore.auditing.code_cells import fence_pictures
from descscore.auditing.html import Origin
from descscore.auditing.markdown import read_markdown
from descscore.auditing.sources import FolderStore, Sources
from descscore.auditing.uses import ImageUse


def page(folder: Path, text: str) -> list[ImageUse]:
    (folder / "a.png").write_bytes(png())
    (folder / "page.md").write_text(text)
    return uses(folder / "page.md")


@pytest.mark.parametrize(
    ("text", "name", "source", "caption"),
    [
        ("![A *red* dog](a.png)", "A red dog", "bracket", None),
        ('![A dog](a.png "Rex")', "A dog", "bracket", None),
        ("![A dog][r]\n\n[r]: a.png", "A dog", "bracket", None),
        # Nothing describes it, and nothing says that it is decorative.
        ("![](a.png)", None, None, None),
        ('![](a.png "Rex")', "Rex", "title", None),
        # Attributes as in Pandoc, Quarto, kramdown and lessons of the Carpentries.
        ("![](a.png){alt='A dog'}", "A dog", "alt", None),
        ("![Figure 1](a.png){alt='A dog' .wide}", "A dog", "alt", "Figure 1"),
        (
            '![Figure 1](a.png){#fig-1 fig-alt="A \\"red\\" {dog}" width=40px}',
            'A "red" {dog}',
            "alt",
            "Figure 1",
        ),
        ('![A dog](a.png){fig-cap="Figure 1"}', "A dog", "bracket", "Figure 1"),
        ('![A dog](a.png){: width="40"}', "A dog", "bracket", None),
        ("![A dog](a.png){not attributes}", "A dog", "bracket", None),
        ("![Figure 1](a.png){alt=''}", "", "alt", "Figure 1"),
        # HTML inside.
        ('text <img src="a.png" alt="A dog"> text', "A dog", "alt", None),
        (
            '<figure>\n<img src="a.png"\n alt="A dog"><figcaption>Rex</figcaption>\n</figure>',
            "A dog",
            "alt",
            "Rex",
        ),
        # MyST.
        (
            "```{figure} a.png\n:alt: A dog\n:name: x\n\nThe *caption*\n\nA legend\n```",
            "A dog",
            "alt",
            "The caption",
        ),
        ("```{figure} a.png\n---\nalt: A dog\n---\nThe caption\n```", "A dog", "alt", "The caption"),
        (":::{figure} a.png\n:alt: A dog\nThe caption\n:::", "A dog", "alt", "The caption"),
        ("```{image} a.png\n:alt: A dog\n  that runs\n```", "A dog that runs", "alt", None),
        ("```{image} a.png\n```", None, None, None),
        ("```{figure-md} x\n![A dog](a.png)\n\nThe caption\n```", "A dog", "bracket", "The caption"),
        ("````{note}\n```{tip}\n![A dog](a.png)\n```\n````", "A dog", "bracket", None),
        (":::: challenge\n![A dog](a.png)\n::::", "A dog", "bracket", None),
        ("Note[^1]\n\n[^1]: ![A dog](a.png)", "A dog", "bracket", None),
        ("| x |\n|---|\n| ![A dog](a.png) |", "A dog", "bracket", None),
        # MyST as mystmd writes it, and cards of sphinx-design.
        (":::{figure}\n:name: x\n![A dog](a.png)\n\nThe caption\n:::", "A dog", "bracket", "The caption"),
        (":::{subfigure} AB\n![A dog](a.png)\n:::", "A dog", "bracket", None),
        (":::{grid-item-card} Title\n:img-top: a.png\n:img-alt: A dog\nText\n:::", "A dog", "alt", None),
        ("```{card} Title\n:img-bottom: a.png\n\nText\n```", None, None, None),
        # Python-Markdown, as MkDocs uses it.
        ("!!! note\n    ![A dog](a.png)", "A dog", "bracket", None),
        ('??? tip "Title"\n\n    ![A dog](a.png)', "A dog", "bracket", None),
        ('=== "One"\n\n    Text\n\n    ![A dog](a.png)\n\nEnd', "A dog", "bracket", None),
        (
            '<figure markdown="span">\n  ![A dog](a.png){ .w }\n  <figcaption>Rex</figcaption>\n</figure>',
            "A dog",
            "bracket",
            "Rex",
        ),
        (
            '<div class="grid" markdown>\n\n<div>x</div>\n\n![A dog](a.png)\n\n</div>',
            "A dog",
            "bracket",
            None,
        ),
    ],
)
def test_name_and_caption(
    tmp_path: Path, text: str, name: str | None, source: str | None, caption: str | None
) -> None:
    (use,) = page(tmp_path, text)
    assert (use.name, use.name_from, use.caption) == (name, source, caption)
    assert (use.source, use.image) == ("a.png", str(tmp_path / "a.png"))
    assert use.decorative == (name == "")


@pytest.mark.parametrize(
    "text",
    [
        "`![no](a.png)`",
        "\\![no](a.png)",
        "```\n![no](a.png)\n```",
        "    ![no](a.png)",
        "```python\n<img src='a.png'>\n```",
        "<!-- ![no](a.png) <img src='a.png'> -->",
        "```{code-block} md\n![no](a.png)\n```",
        "---\nimage: ![no](a.png)\n---",
        '`{{< figure src="a.png" >}}`',
        '{{</* figure src="a.png" */>}}',
        "{{< figures >}} {% include figures.html %}",
        "```{python}\n#| echo: false\nplot()\n```",
        '```python\n#| fig-alt: "no cell"\n```',
        '```{{python}}\n#| fig-alt: "shown, not run"\n```',
        '<div markdown="0">\n![no](a.png)\n</div>',
        "!!! note\n\n        ![no](a.png)",
        '```{r, eval=FALSE}\ninclude_graphics("a.png")\n```',
        '```r\ninclude_graphics("a.png")\n```',
    ],
)
def test_code_and_comments_hold_no_images(tmp_path: Path, text: str) -> None:
    assert page(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ('```{python}\n#| label: x\n#| fig-alt: "A \\"red\\" dog"\nplot()\n```', [('A "red" dog', None)]),
        ("```{r}\n#| fig-alt: A dog\n#| fig-cap: Figure 1\nplot()\n```", [("A dog", "Figure 1")]),
        ("```{r}\n#| fig-alt: >-\n#|   A dog\n#|   that runs\n```", [("A dog that runs", None)]),
        ("```{ojs}\n//| fig-alt: A dog\n```", [("A dog", None)]),
        (
            "```{r}\n#| fig-alt: [A dog, A cat]\n#| fig-cap: [One, Two]\n```",
            [("A dog", "One"), ("A cat", "Two")],
        ),
        ("```{r}\n#| fig-alt: ''\n```", [("", None)]),
        # As with an image's bracket, a caption alone is the text too.
        ("```{r}\n#| fig-cap: Figure 1\n```", [("Figure 1", None)]),
        ("```{r}\n#| fig-cap: !expr paste(x)\n```", [("{{ expr }}", None)]),
        ("```{r, echo=F, fig.alt='A dog', fig.cap=\"One\"}\nplot()\n```", [("A dog", "One")]),
        ("```{r fig.cap=x}\nplot()\n```", [("{{ x }}", None)]),
        ("```{r}\n#| fig-alt: [A dog\n```", []),
        (
            "```{code-cell} x\n---\nmystnb:\n  image: {alt: A dog}\n  figure: {caption: Rex}\n---\n```",
            [("A dog", "Rex")],
        ),
        # MyST-NB makes no text of a caption.
        ("```{code-cell}\n---\nmystnb: {figure: {caption: Rex}}\n---\n```", [(None, "Rex")]),
        ("```{code-cell}\n---\nmystnb: [\n---\n```", []),
        ("```{code-cell}\n:tags: [x]\nplot()\n```", []),
        (":::{figure} #cell\n:alt: A dog\nRex\n:::", [("A dog", "Rex")]),
        (":::{figure} #cell\nRex\n:::", [("{{ alt }}", "Rex")]),  # the cell may have one
    ],
)
def test_pictures_that_cells_draw(
    tmp_path: Path, text: str, texts: list[tuple[str | None, str | None]]
) -> None:
    found = page(tmp_path, f"Before\n\n{text}\n")
    assert [(use.name, use.caption) for use in found] == texts
    for use in found:
        assert (use.line, use.column, use.element, use.image_problem) == (3, 1, "output", "inline-svg")
        assert "fig-" not in use.words_before  # nobody reads an option


@pytest.mark.parametrize(
    ("options", "code", "found"),
    [
        ("", '"a.png"', [("a.png", None, None)]),
        (", fig.cap='Rex'", '"a.png"', [("a.png", "Rex", None)]),
        (
            ", fig.alt='A dog', fig.cap='Rex'",
            "c('a.png', 'b.png')",
            [("a.png", "A dog", "Rex"), ("b.png", "A dog", "Rex")],
        ),
        (", fig.alt='A dog'", "file.path('img', x)", [("img", "A dog", None)]),
    ],
)
def test_files_that_cells_of_r_show(
    tmp_path: Path, options: str, code: str, found: list[tuple[str, str | None, str | None]]
) -> None:
    uses_of_page = page(tmp_path, f"```{{r{options}}}\nknitr::include_graphics({code})\n```")
    assert [(use.source, use.name, use.caption) for use in uses_of_page] == found


def test_an_element_that_does_not_close_leaves_later_ones_alone(tmp_path: Path) -> None:
    good = "<div markdown>\n![A dog](a.png)\n<div>\n</div>\n</div>\n\n"
    found = page(tmp_path, f"<div markdown>\n\n{good}{good}> <div markdown>\n> ![A cat](a.png)\n> </div>\n")
    assert [use.name for use in found] == ["A dog", "A dog", "A cat"]
    names = [f"{a}{b}" for a in "abcdefghijkl" for b in "abcdefghijkl"]
    for text in ("<p markdown>\n\n" * 5000, "".join(f"<{name} markdown>\n\n" for name in names * 30)):
        start = time.process_time()
        assert page(tmp_path, text + "![A dog](a.png)")[0].name == "A dog"
        assert time.process_time() - start < 10


def test_options_that_name_a_list_of_any_length_are_read_in_bounds() -> None:
    lists = [f"#| a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    assert fence_pictures("\n".join(["#| a0: &a0 [x]", *lists, "#| eval: *a19"]), "{r}") == []


@pytest.mark.parametrize("rest", ["a" * 2000, "", "(" + "a" * 190, "a()", "()" * 100, "(" * 100])
def test_calls_that_do_not_end_are_read_in_bounds(rest: str) -> None:
    call = f"include_graphics({rest}\n"
    start = time.process_time()
    assert fence_pictures(call * ((4 << 20) // len(call)), "{r}") == []
    assert time.process_time() - start < 4
    shown = 'include_graphics(c("a.png", "b.png"), dpi = max(1, 2))'
    assert [one.source for one in fence_pictures(shown, "{r}")] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ site.baseurl }}/img/a.png", None),
        ("{{site.url}}{{site.baseurl}}/img/a.png", None),
        ('{{ "/img/a.png" | relative_url }}', None),
        ("{% link img/a.png %}", None),
        ("{{ site.baseurl }}/img/none.png", "missing"),
        ("{% link img/none.png %}", "missing"),
        ("{{ site.baseurl }}/../img/a.png", "outside"),
        ("{{ site.url }}", "template"),
        ('{{ "https://example.org/a.png" | absolute_url }}', "template"),
        ('{{ page.image | default: "a b.png" }}', "template"),
        ('{{ "/img/a.png" | resize: 40 }}', "template"),
    ],
)
def test_templates_of_jekyll_lead_to_the_files_of_the_site(
    tmp_path: Path, source: str, problem: str | None
) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img/a.png").write_bytes(png())
    (tmp_path / "_posts").mkdir()
    (tmp_path / "_posts/page.md").write_text(
        f"Look: ![A dog]({source} \"Rex\"){{: .wide}}\n\n<img src='{source}'>"
    )
    for use in uses(tmp_path):
        assert use.source == source
        file = None if problem else str(tmp_path / "img/a.png")
        assert (use.image, use.image_problem) == (file, problem)
    assert [use.name for use in uses(tmp_path)] == ["A dog", None]


@pytest.mark.parametrize(
    ("text", "name", "caption", "link"),
    [
        ('{{< figure src="a.png" alt="A dog" caption="Rex" >}}', "A dog", "Rex", None),
        ('Text {{% figure src=`a.png` alt="A \\"red\\" dog" width=40 %}} text', 'A "red" dog', None, None),
        ('{{<figure src="a.png">}}', None, None, None),
        ('{{< figure src="a.png" alt="" >}}', "", None, None),
        ('{{< figure src="a.png" alt="Home" link="/" >}}', "Home", None, "link"),
        ('text\n\n{{< figure\n  src="a.png"\n  alt="A dog"\n>}}', "A dog", None, None),
        ('{{< figure src="a.png" caption="Rex" >}}', "Rex", "Rex", None),  # so does Hugo
        ('{% include figure image_path="a.png" alt="A dog" caption="Rex" %}', "A dog", "Rex", None),
        ("{%- include figure.html path='a.png' alt=page.alt -%}", "{{ page.alt }}", None, None),
        ('{% include figure.liquid src="a.png" %}', "{{ alt }}", None, None),  # as the site decides
    ],
)
def test_figures_of_hugo_and_jekyll(
    tmp_path: Path, text: str, name: str | None, caption: str | None, link: str | None
) -> None:
    (use,) = page(tmp_path, text)
    assert (use.name, use.caption, use.only_content_of) == (name, caption, link)
    assert use.image == str(tmp_path / "a.png")
    lines = text.split("\n")
    assert lines[use.line - 1][use.column - 1 :].startswith(("{{", "{%"))  # type: ignore[operator]


def test_every_use_stands_where_its_mark_begins(tmp_path: Path) -> None:
    text = """---
lang: de
---
# A ![x](a.png)

> quoted text
> more ![x](a.png){alt='y'}
- item [![x](a.png)](https://example.org)

  <div><p>
   <img src="a.png"></p></div>

| a | b |
|---|---|
| ![x](a.png) | ![x](a.png) |

```{note}
in a note ![x](a.png)
```
:::{figure} a.png

Caption with ![x](a.png)
:::
Term
: Definition <img
  src="a.png"> end

!!! note
    > ![x](a.png)

<div markdown>
   Text
   ![x](a.png)
</div>
"""
    found = page(tmp_path, text)
    lines = text.split("\n")
    places = [(use.line, use.column) for use in found]
    assert places == [
        *((4, 5), (7, 8), (8, 9), (11, 4), (15, 3), (15, 17), (18, 11), (20, 1), (22, 14), (25, 14)),
        *((29, 7), (33, 4)),
    ]
    starts = [lines[line - 1][column - 1 :] for line, column in places if line and column]
    assert all(start.startswith(("![", "<img", ":::")) for start in starts)
    assert {use.language for use in found} == {"de"}
    assert found[2].only_content_of == "link"


def test_words_around_hold_no_marks(tmp_path: Path) -> None:
    text = "::: challenge\nLook at **this**:\n\n![x](a.png){alt='y'}\n:::\n\n1. [Next](b.html)"
    (use,) = page(tmp_path, text)
    assert (use.words_before, use.words_after) == ("Look at this:", "x Next")


@given(
    st.lists(
        st.sampled_from(
            [
                *("![", "](a.png)", "{alt='x'}", "\n", "> ", "```", "{figure} a.png", "<img src=a.png>"),
                *("{{< figure ", "src='a.png'", ">}}", "{r}", "#| fig-alt: ", "{% include figure.html "),
                *(
                    "{{ x }}",
                    "!!! note\n",
                    "    ",
                    "<p markdown>\n",
                    "</p>",
                    ":::",
                    "{card}\n:img-top: a.png",
                ),
            ]
        )
    )
)
def test_any_mixture_of_marks_is_read(parts: list[str]) -> None:
    text = "".join(parts)
    lines = text.split("\n")
    for use in read_markdown(text, Origin("page.md", Sources(FolderStore("/nowhere")))).uses():
        if use.line is not None and use.column is not None:
            assert len(lines[use.line - 1]) >= use.column
