"""Uses of images in Markdown: CommonMark with HTML, and what Pandoc, Quarto, MyST, Hugo and Jekyll add.

The text becomes HTML whose images know their place in the Markdown, and the HTML's reader does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import cache
from html import escape
from itertools import dropwhile
from types import SimpleNamespace
from typing import Any

from markdown_it import MarkdownIt, helpers
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline, html_inline, image
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.footnote import footnote_plugin
from mdit_py_plugins.front_matter import front_matter_plugin

from descscore.auditing.code_cells import OPTION_LINE, fence_pictures
from descscore.auditing.html import AT, BRACKET, CAPTION, PLOTTED, Origin, Reading
from descscore.auditing.html_tree import Element, name_set, parse

Env = MutableMapping[str, Any]
"""What is known of a text while it is read: ``lines``, those of the file; ``first``, lines of it before
the text; ``depth``, directives around it."""

_MOST_DEPTH = 10
"""Most directives inside one another that are read."""


def read_markdown(text: str, origin: Origin) -> Reading:
    """A Markdown text that is read: its uses of images and its visible text.

    Raises:
        DataError: The text holds too many elements.
    """
    lines = re.split("\r\n|\n|\r", text)
    env = {"lines": lines, "first": 0, "depth": 0}
    front_matter = text.partition("\n---")[0] if text.startswith("---") else ""
    language = _LANGUAGE.search(front_matter)
    made = replace(origin, is_made=True, language=language[1] if language else origin.language)
    return Reading(_markdown().render("\n".join(lines), env), made)


_LANGUAGE = re.compile(r"(?m)^lang(?:uage)?:[ \t]*[\"']?([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*)")


class _Markdown(MarkdownIt):
    """Leaves sources as they are written."""

    def normalizeLink(self, url: str) -> str:
        return url

    def validateLink(self, url: str) -> bool:
        return True


def _destination(text: str, place: int, end: int) -> Any:
    """A link's destination as CommonMark reads it, or one with templates, inside which spaces may stand."""
    templated = _TEMPLATED.match(text, place, end)
    if templated is None or "{" not in templated[0]:
        return helpers.parseLinkDestination(text, place, end)
    found = helpers.parseLinkDestination("x", 0, 1)
    found.str, found.pos = templated[0], templated.end()
    return found


_TEMPLATED = re.compile(r"(?:\{\{[^{}\n]{1,300}\}\}|\{%[^{}\n]{1,300}%\}|[^\s(){}<>\x00-\x1f])+")


class _Renderer(RendererHTML):
    """Writes HTML whose images say where they stand in the Markdown."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        token = tokens[idx]
        given: dict[str, str] = token.meta.get("attributes", {})
        bracket = self.renderInlineAsText(token.children, options, env) if token.children else ""
        own = {name: value for name, value in given.items() if name not in _TEXTS}
        own |= {"src": str(token.attrs.get("src", "")), AT: _at(token)}
        if "title" in token.attrs:
            own["title"] = str(token.attrs["title"])
        text = next((given[name] for name in ALTS if name in given), None)
        return _image(own, text, bracket, given.get("fig-cap"))

    def shortcode(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        given: dict[str, str] = tokens[idx].meta["attributes"]
        source = next((given[name] for name in _SHORTCODE_SOURCES if name in given), "")
        own = {name: given[name] for name in ("width", "height") if name in given}
        caption = given.get("caption", "")
        text = given.get("alt", tokens[idx].meta["default"] or caption or None)
        picture = _image(own | {"src": source, AT: _at(tokens[idx])}, text)
        if given.get("link"):
            picture = f'<a href="{escape(given["link"])}">{picture}</a>'
        return f"<figure>{picture}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"

    def html_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return _with_places(tokens[idx].content, _line_of(tokens[idx], env), env)

    def markdown_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        token, line = tokens[idx], _line_of(tokens[idx], env)
        tag = _with_places(token.markup, line, env)
        return f"{tag}{_inner(token.content, line + 1, env)}{token.info}\n"

    def card(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return tokens[idx].content

    def html_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        token = tokens[idx]
        name = re.match("<[A-Za-z][^\\s/>]*", token.content)
        if name is None or "place" not in token.meta:
            return token.content
        line, column = token.meta["place"]
        return f'{name[0]} {AT}="{line}:{column}"{token.content[name.end() :]}'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        token = tokens[idx]
        directive = re.match(r"\{([\w:-]+)\}\s*(.*)", token.info.strip())
        name = directive[1] if directive else ""
        if directive and name in (*_FIGURES, *_WRAPPERS) and env["depth"] < _MOST_DEPTH:
            return _directive(token, name, directive[2].strip(), env)
        at = {AT: _begin(_line_of(token, env), env)}
        plots = [
            _image(at | {"src": one.source} | ({} if one.source else {PLOTTED: ""}), one.alt, "", one.caption)
            for one in fence_pictures(token.content, token.info.strip())
        ]
        # Readers of the page do not meet the options.
        code = "\n".join(dropwhile(OPTION_LINE.match, token.content.split("\n"))) if plots else token.content
        return f"<pre>{escapeHtml(code)}</pre>{''.join(plots)}\n"


ALTS = ("fig-alt", "alt")
_TEXTS = (*ALTS, "fig-cap")


def _line_of(token: Token, env: Env) -> int:
    """The line of the file in which a token begins, from 0."""
    return int(env["first"]) + (token.map[0] if token.map else 0)


def _begin(line: int, env: Env) -> str:
    """The place where the text of a line begins. line: its number, from 0."""
    text = env["lines"][line]
    return f"{line + 1}:{len(text) - len(text.lstrip()) + 1}"


def _inner(text: str, first: int, env: Env) -> str:
    """The HTML of Markdown inside another block. first: lines of the file before it."""
    inner = {"lines": env["lines"], "first": first, "depth": env["depth"] + 1}
    return str(_markdown().render(text, inner))


def _at(token: Token) -> str:
    return "{}:{}".format(*token.meta.get("place", ("", "")))


def _image(own: dict[str, str], text: str | None, bracket: str = "", caption: str | None = None) -> str:
    """An image whose text is given, or stands in the bracket, which is the caption otherwise."""
    if text is not None:
        own = own | {"alt": text}
        caption = bracket if caption is None else caption
    elif bracket.strip():
        own = own | {"alt": bracket, BRACKET: ""}
    return _img(own | {CAPTION: caption} if caption else own)


_FIGURES = ("figure", "image", "figure-md")
_WRAPPERS = name_set(
    "admonition attention card caution danger dropdown epigraph error exercise grid grid-item grid-item-card "
    "hint important list-table margin note seealso sidebar solution subfigure tab-item tab-set table tip "
    "topic warning"
)
"""Directives of MyST whose content is Markdown."""


def _directive(token: Token, name: str, argument: str, env: Env) -> str:
    """The HTML of a MyST directive that is a figure or holds Markdown."""
    options, skipped, body = _directive_options(token.content)
    line = _line_of(token, env)
    first = line + 1 + skipped
    if name in _WRAPPERS:
        return f"<div>{_card_images(options, line, env)}{_inner(body, first, env)}</div>\n"
    head, gap, rest = _split_paragraph(body)
    rest = _inner(rest, first + head.count("\n") + gap.count("\n"), env)
    if name == "figure-md" or (name == "figure" and not argument):
        return f"<figure>{_inner(head, first, env)}<figcaption>{rest}</figcaption></figure>\n"
    attributes = {key: value for key, value in options.items() if key in ("alt", "width", "height")}
    if argument.startswith("#"):  # the picture of a cell of code, which may have the text
        attributes = {PLOTTED: "", "alt": "{{ alt }}"} | attributes
    attributes |= {"src": argument, AT: _begin(line, env)}
    picture = _img(attributes)
    if "target" in options:
        picture = f'<a href="{escape(options["target"])}">{picture}</a>'
    has_caption = head.strip() and name == "figure"
    caption = f"<figcaption>{_inner(head, first, env)}</figcaption>" if has_caption else ""
    return f"<figure>{picture}{caption}{rest}</figure>\n"


def _card_images(options: Mapping[str, str], number: int, env: Env) -> str:
    """The images that options of a card name. number: the card's line, from 0."""
    at = {AT: _begin(number, env)}
    texts = {"alt": options["img-alt"]} if "img-alt" in options else {}
    return "".join(
        _img(at | texts | {"src": options[place]})
        for place in ("img-top", "img-bottom", "img-background")
        if place in options
    )


def _directive_options(content: str) -> tuple[dict[str, str], int, str]:
    """The options at the start of a directive's content, the number of their lines, and the rest."""
    lines = content.split("\n")
    options: dict[str, str] = {}
    is_yaml, number, last = lines[0].strip() == "---", 0, ""
    form = r"\s*([\w-]+):\s*(.*)" if is_yaml else r"\s*:([\w-]+):\s*(.*)"
    for number, line in enumerate(lines[is_yaml:], int(is_yaml)):
        option = re.match(form, line)
        if is_yaml and line.strip() == "---":
            number += 1
            break
        if option:
            last = option[1]
            options[last] = option[2].strip().strip("\"'")
        elif last and line[:1].isspace() and line.strip():
            options[last] += f" {line.strip()}"
        elif not is_yaml:
            break
    return options, number, "\n".join(lines[number:])


def _split_paragraph(text: str) -> tuple[str, str, str]:
    """The first paragraph, the blank lines after it, and the rest; blank lines before it count to it."""
    gap = re.search(r"(?<=\S)[ \t]*\n(?:[ \t]*\n)+", text)
    return (text[: gap.start()], gap[0], text[gap.end() :]) if gap else (text, "", "")


def _img(attributes: Mapping[str, str]) -> str:
    return "<img " + " ".join(f'{key}="{escape(value)}"' for key, value in attributes.items()) + ">"


def _with_places(content: str, first: int, env: Env) -> str:
    """HTML in which each tag says where it stands in the Markdown. first: lines of the file before it."""
    parts, done = [], 0
    starts = [0, *(match.end() for match in re.finditer("\n", content))]
    for node in parse(content).descendants():
        if isinstance(node, Element):
            line, column = _place(content, starts[node.line - 1] + node.column - 1, first, env)
            stop = starts[node.line - 1] + node.column + len(node.name)
            parts.append(f'{content[done:stop]} {AT}="{line}:{column}"')
            done = stop
    return "".join([*parts, content[done:]])


def _place(content: str, at: int, first: int, env: Env) -> tuple[int, int]:
    """Line and column, from 1, in the file of a place in a block's content, whose indentation is cut."""
    number = first + content.count("\n", 0, at)
    start = content.rfind("\n", 0, at) + 1
    stop = content.find("\n", at)
    line: str = env["lines"][number] if number < len(env["lines"]) else ""
    rest = content[at : len(content) if stop < 0 else stop]
    # In a table, equal cells may stand on one line: each is looked for after the one before it.
    after = env.get("found", {}).get(number, 0)
    column = line.find(rest, max(after, at - start))
    if column < 0:
        column = line.find(rest.split("|")[0].rstrip("\\"), after)
    env.setdefault("found", {})[number] = column + 1
    return number + 1, max(column, 0) + 1


def _placed(rule: Callable[[StateInline, bool], bool]) -> Callable[[StateInline, bool], bool]:
    """A rule whose token knows where in its text it begins; :func:`_places_rule` makes a line of that."""

    def placed(state: StateInline, silent: bool) -> bool:
        start = state.pos
        is_read = rule(state, silent)
        if is_read and not silent:
            state.tokens[-1].meta["at"] = start
        return is_read

    return placed


def _image_rule(state: StateInline, silent: bool) -> bool:
    if not image(state, silent):
        return False
    braces = _BRACES.match(state.src, state.pos)
    attributes = _attributes(braces[1]) if braces else None
    if braces and attributes is not None:
        state.pos = braces.end()
    if not silent:
        state.tokens[-1].meta["attributes"] = attributes or {}
    return True


_BRACES = re.compile(r"\{((?:[^{}\"']|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')*)\}", re.DOTALL)
_ATTRIBUTE = re.compile(
    r"""([\w:-]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([^\s"'{}]+))|[#.:][\w:-]*|\s+|-""",
    re.DOTALL,
)


def _attributes(text: str) -> dict[str, str] | None:
    """The attributes between braces after an image; None if something else stands there."""
    attributes, place = dict[str, str](), 0
    for part in iter(_ATTRIBUTE.scanner(text).match, None):  # type: ignore[attr-defined] # not in its types
        place = part.end()
        if part[1]:
            value = next(value for value in (part[2], part[3], part[4]) if value is not None)
            attributes.setdefault(part[1].lower(), re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL))
    return attributes if place == len(text) else None


def _shortcode_rule(state: StateInline, silent: bool) -> bool:
    """Read a figure of Hugo (``{{< figure src="a.png" >}}``) or Jekyll (``{% include figure.html %}``)."""
    mark = _SHORTCODE.match(state.src, state.pos)
    given = _shortcode_values(mark) if mark else {}
    if mark is None or not any(name in given for name in _SHORTCODE_SOURCES):
        return False
    if not silent:
        # What a site's own figure says without a text, only its template knows.
        default = "" if mark[2] is None else "{{ alt }}"
        state.push("shortcode", "", 0).meta = {"attributes": given, "default": default}
    state.pos = mark.end()
    return True


def _shortcode_values(mark: re.Match[str]) -> dict[str, str]:
    values = {}
    for name, quoted, single, raw, bare in _SHORTCODE_VALUE.findall(mark[1] or mark[2] or ""):
        text = re.sub(r"\\(.)", r"\1", quoted) + single + raw
        # A bare word is a value for Hugo, and for Jekyll the name of one.
        values[name.lower()] = f"{{{{ {bare} }}}}" if bare and mark[2] else text + bare
    return values


def _shortcode_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a figure of Hugo that has lines of its own, of which one may begin with ``>``, as a paragraph."""
    place = state.bMarks[start] + state.tShift[start]
    mark = None if state.is_code_block(start) else _SHORTCODE.match(state.src, place, state.eMarks[end - 1])
    if mark is None or not mark[1]:
        return False
    stop = start + mark[0].count("\n") + 1
    if stop == start + 1 or state.src[mark.end() : state.eMarks[stop - 1]].strip():
        return False
    if not silent:
        state.push("paragraph_open", "p", 1)
        token = state.push("inline", "", 0)
        token.content, token.map, token.children = mark[0], [start, stop], []
        state.push("paragraph_close", "p", -1)
        state.line = stop
    return True


_SHORTCODE_VALUE = re.compile(
    r"""([\w-]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|'([^']*)'|`([^`]*)`|([^\s"'`{}<>%=]+))"""
)
_SHORTCODE = re.compile(
    r"""(?x)\{\{ [<%] \s* figure \s ( (?: "(?:\\.|[^"\\])*" | `[^`]*` | [^"`{}] )*? ) /? [>%]\}\}
    | \{%-? \s* include \s+ (?:[\w-]+/)*figure(?:\.\w+)? \s ( (?: "[^"]*" | '[^']*' | [^"'{}] )*? ) -?%\}"""
)
_SHORTCODE_SOURCES = ("src", "path", "image_path", "url", "image")


def _places_rule(state: StateCore) -> None:
    """Give images and tags inside paragraphs their line and column."""
    for token in state.tokens:
        for child in token.children or ():
            if "at" in child.meta and token.map:
                first = token.map[0] + state.env["first"]
                child.meta["place"] = _place(token.content, child.meta["at"], first, state.env)


def _colon_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a line of colons: a figure of MyST to its end, of other blocks the mark alone."""
    if state.is_code_block(start):
        return False
    mark = _COLONS.match(_line(state, start))
    if mark is None:
        return False
    if silent:
        return True
    stop = start + 1
    if mark[2] in _FIGURES:
        while stop < end and not re.fullmatch(rf"{mark[1]}:*\s*", _line(state, stop)):
            stop += 1
        token = state.push("fence", "", 0)
        token.info, token.markup, token.map = f"{{{mark[2]}}} {mark[3]}", mark[1], [start, stop]
        token.content = state.getLines(start + 1, stop, state.sCount[start], True)
        stop = min(stop + 1, end)
    elif mark[2] in _CARDS:
        options = _directive_options(state.getLines(stop, min(end, stop + _MOST_CARD_LINES), 0, True))
        state.push("card", "", 0).content = _card_images(options[0], state.env["first"] + start, state.env)
        stop = min(stop + options[1], end)
    state.line = stop
    return True


def _indented_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read a block of Python-Markdown whose content is indented: ``!!! note``, ``??? tip``, ``=== "Tab"``."""
    if state.is_code_block(start) or not _INDENTED.match(_line(state, start)):
        return False
    stop = last = start + 1
    while stop < end and (state.isEmpty(stop) or state.sCount[stop] >= state.sCount[start] + 4):
        stop += 1
        last = last if state.isEmpty(stop - 1) else stop
    if last == start + 1:
        return False
    if not silent:
        token = state.push("fence", "", 0)
        token.info, token.map = "{admonition}", [start, last]
        token.content = state.getLines(start + 1, last, state.sCount[start] + 4, True)
        state.line = last
    return True


_INDENTED = re.compile(r"(?:!!!|\?\?\?\+?|===[!+]?)[ \t]+\S")


def _markdown_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read an HTML element that holds Markdown, as ``<figure markdown>`` of Python-Markdown."""
    tag = None if state.is_code_block(start) else _HOLDS_MARKDOWN.fullmatch(_line(state, start).rstrip())
    if tag is None or state.env["depth"] >= _MOST_DEPTH:
        return False
    if "closing" not in state.env:
        state.env["closing"] = _closing_lines(state.src)
    stop = state.env["closing"].get((tag[1].lower(), start), end)
    if stop >= end:
        return False
    if not silent:
        filled = [state.sCount[number] for number in range(start + 1, stop) if not state.isEmpty(number)]
        token = state.push("markdown_block", "", 0)
        token.markup, token.info, token.map = tag[0], _line(state, stop), [start, stop + 1]
        token.content = state.getLines(start + 1, stop, min(filled, default=0), True)
        state.line = stop + 1
    return True


def _closing_lines(text: str) -> dict[tuple[str, int], int]:
    """The line that closes an element, by its name and the line that opens it. Lines count from 0."""
    closing, depths = dict[tuple[str, int], int](), dict[str, int]()
    waiting: dict[str, list[tuple[int, int]]] = {}  # depths inside the open elements of a name, and lines
    for number, line in enumerate(text.split("\n")):
        tags = [(name.lower(), -1 if slash else 1) for slash, name in _TAGS.findall(line)]
        for name, step in tags:
            depths[name] = depths.get(name, 0) + step
        for name in dict(tags):
            opened = waiting.setdefault(name, [])
            while opened and opened[-1][0] > depths[name]:
                closing[name, opened.pop()[1]] = number
            opened.append((depths[name], number))
    return closing


_TAGS = re.compile(r"(?i)<(/?)([a-z]{1,20})(?=[\s>])")
_HOLDS_MARKDOWN = re.compile(
    r"(?i)<([a-z]{1,20})\b[^<>]{0,500}?\smarkdown(?:\s*=\s*(?![\"']?0)[^<>]{0,20})?(?:\s[^<>]{0,500})?>"
)


_CARDS = ("card", "grid-item-card")
_MOST_CARD_LINES = 20
"""Most lines of a card's options that are read."""
_COLONS = re.compile(r"(:{3,})[ \t]*(?:\{([\w-]+)\}[ \t]*(.*))?")


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


@cache
def _markdown() -> MarkdownIt:
    markdown = _Markdown("commonmark", {"html": True}, renderer_cls=_Renderer).enable(
        ["table", "strikethrough"]
    )
    markdown.use(front_matter_plugin).use(footnote_plugin).use(deflist_plugin)
    markdown.inline.ruler.at("image", _placed(_image_rule))
    markdown.inline.ruler.at("html_inline", _placed(html_inline))
    markdown.inline.ruler.before("escape", "shortcode", _placed(_shortcode_rule))
    markdown.core.ruler.after("inline", "places", _places_rule)
    markdown.helpers = SimpleNamespace(**vars(helpers) | {"parseLinkDestination": _destination})  # type: ignore[assignment]
    for rule in (_colon_rule, _shortcode_block, _indented_rule, _markdown_rule):
        markdown.block.ruler.before(
            "fence", rule.__name__, rule, {"alt": ["paragraph", "reference", "blockquote", "list"]}
        )
    return markdown
