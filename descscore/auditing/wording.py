"""What a text alternative looks like before anybody sees its image, such as a file name; ``rules.py`` judges

Each function answers one question about one text. They know English, and the words for "image" in some other
languages. The word lists also serve :mod:`descscore.training.neither`, which draws empty texts from them, so
their order matters there.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import regex


def listed(items: str) -> tuple[str, ...]:
    """The items of a list that is written with semicolons or, without any, with blanks."""
    return tuple(item.strip() for item in items.split(";" if ";" in items else None))


HEADS = listed(
    "picture photo photograph image figure graphic illustration drawing diagram chart graph map scan "
    "snapshot screenshot painting icon logo banner view scene shot example"
)
"""Words for a picture of any kind."""
THINGS = listed(
    "something; someone; some people; a thing; things; an object; various things; a person; a place; "
    "somewhere; a scene; stuff; the subject; this; it; a topic; content; an item; several items; a situation"
)
"""What a picture may be said to show when nothing is said."""
PLACE_HOLDERS = listed(
    "null none undefined nan n/a - ... todo tbd alt alt-text caption description decorative spacer "
    "placeholder thumbnail default unknown unnamed title text img pic asset blank test loading"
)
"""Texts that stand where a text was forgotten."""
BOILERPLATE = listed(
    "Click to enlarge.; Click here for more information.; All rights reserved.; Image credit: the author.; "
    "Photo courtesy of the museum.; Source: own work.; See text for details.; Read more.; Stock photo.; "
    "Photo by a staff photographer.; Download image.; Image may be subject to copyright.; Share this image.; "
    "No alt text provided.; See the caption below.; For illustration only.; Advertisement.; Image not found."
)
"""Sentences that suit any picture."""
CAMERA_NAMES = listed(
    "IMG DSC DSCN DSCF PXL PICT P img image photo pic figure fig scan screenshot file upload untitled"
)
"""How names of image files begin."""
SUFFIXES = listed("jpg jpeg JPG png PNG gif webp tif bmp svg")
"""Endings of image files."""

FUNCTION_WORDS = frozenset(
    listed(
        "a about above after against all along also among an and another any are around as at away be "
        "because been before behind being below beneath beside between both but by can could did do does "
        "down during each either for from had has have he her here hers him his how i if in inside into "
        "is it its itself may me might more most my near no nor not of off on one onto or other our out "
        "over own past she should so some such than that the their them then there these they this those "
        "through to toward towards under until up upon us very was we were what when where which while "
        "who whom whose will with within without would you your"
    )
)
"""English words that carry grammar rather than content."""

_MORE_HEADS = listed(
    "picto; pictogram; pictogramme; "
    "img; pic; pics; fig; clipart; clip art; plate; table; slide; exhibit; avatar; gif; jpeg; png; bild; "
    "foto; abbildung; grafik; imagen; fotografía; figura; imagem; immagine; afbeelding; obraz; zdjęcie; "
    "изображение; фото; 画像; 写真; 図; 图片; 图像; صورة"
)
_MORE_PLACE_HOLDERS = listed(
    "alt text; alternative text; alternate text; alt tag; alttext; image alt; image alt text; "
    "image description; description of image; description of the image; picture description; "
    "photo description; no alt; no alt text; no description; no description available; no caption; "
    "insert alt text; insert alt text here; add alt text; add alt text here; your alt text here; "
    "your text here; alt text here; text here; put alt text here; missing alt; missing alt text; fixme; xxx; "
    "untitled; lorem ipsum; dummy; temp; tmp; false; true; spacer image; blank image; decorative image; "
    "image placeholder; placeholder image; image here; object object; image not available; "
    "image coming soon; img alt; default image; featured image; hero image; header image; "
    "post image; main image; thumbnail image; background image; profile picture; profile image; stock image; "
    "image title; your image; user image; logo image; graphical user interface; a screenshot of a computer; "
    "description automatically generated"
)

_NAMELESS_IN_LINKS = frozenset(
    listed(
        "image img picture pic photo photograph graphic icon thumbnail placeholder spacer untitled null "
        "undefined nan alt alt-text figure fig asset unnamed todo tbd fixme link button"
    )
)
"""Generic words that do not say where a link leads either. "Map" or "Download image" may say it."""

_QUOTES = " \t\n\"'\u2018\u2019\u201c\u201d[]()<>"
"""What may stand around a text without being a part of it."""

_FILE_ENDING = r"\.(?:jpe?g|jpe|jfif|a?png|gif|webp|avif|hei[cf]|svgz?|bmp|tiff?|ico|eps|psd|emf|wmf)"
_LONGEST_NAME = 300
"""Characters of the longest text that may be a file name or a generic text."""
_IN_SENTENCES = frozenset(listed("a an the of in on is are with for to from and or by file called named"))
_FILE = re.compile(rf"(?i)[^\s?#]+{_FILE_ENDING}(?:[?#]\S*)?")
_FILE_OF_WORDS = re.compile(rf"(?i)(?:\S+\s+){{1,7}}\S*{_FILE_ENDING}")
_CAMERA = re.compile(
    r"(?i)(?:img|imag|dsc[nf]?|pxl|pict|p(?=[ _-]?\d{4})|image|photo|pic|scan|screenshot|screen[ _-]?shot|"
    r"vid|wp|mvimg|gopr|hpim|sam|capture|unnamed|untitled|download|file|upload)"
    r"(?:[ _-]?(?=\d{3}|\d+[_-]\d|\d{4}-)|[_-](?=\d))[\d_.:() -]+"
    rf"(?:(?:at|um|wa|am|pm|hdr|copy|edited|cover|burst|mp)[\d_.:() -]*){{0,4}}(?:{_FILE_ENDING})?"
)
_DATED = re.compile(r"\d{8}[_-]\d{4,9}(?:[_-]\w+)?|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_HASH = re.compile(r"(?=\w*\d)(?=\w*[a-fA-F])[0-9a-fA-F]{12,}")
_ADDRESS = re.compile(
    r"(?i)(?:(?:https?|ftp|file)://|www\.)\S+|data:[^\s,]*,\S*|\.{0,2}/(?:[\w.%~-]+/)+[\w.%~-]*"
)


def is_file_name(text: str, source: str = "") -> bool:
    """Whether the whole text is the name of an image file. A file name inside a sentence is not.

    source: where the document takes the image from; its name without ending counts too.
    """
    bare = text.strip(_QUOTES)
    if len(bare) > _LONGEST_NAME:
        return False
    if _FILE.fullmatch(bare) or _DATED.fullmatch(bare) or _HASH.fullmatch(bare) or _CAMERA.fullmatch(bare):
        return True
    if _FILE_OF_WORDS.fullmatch(bare) and not _IN_SENTENCES & set(words_of(bare)):
        return True
    name = file_name(source)
    stem = PurePosixPath(name).stem
    # "golden-retriever-2" is pasted from the file; "dog" or "Coca-Cola" may be meant.
    pasted = bool(re.search(r"[_-]", stem)) and stem == stem.lower()
    return bool(bare) and (bare == name != stem or (bare == stem and pasted and not re.search(r"\s", bare)))


def file_name(source: str) -> str:
    """The file's name in a source as a document writes it; '' for a data address."""
    if source[:5].lower() == "data:":
        return ""
    try:
        path = urlsplit(source).path
    except ValueError:  # a bracket where a host should be
        path = source
    return PurePosixPath(unquote(path).replace("\\", "/")).name


def is_address(text: str) -> bool:
    """Whether the whole text is a web address or a path; "NASA/JPL" is none."""
    return bool(_ADDRESS.fullmatch(text.strip(_QUOTES)))


_ARTICLES = r"(?:(?:this|here|it) is |this )?(?:an?|the|my|our|your|some)?"
_NUMBER = r" ?(?:no|nr)?\.? ?#?\d+(?:[.\u2013-]\d+)*[a-z]?|[ .]+(?:(?:no|nr)\.? ?)?#?(?:[a-z]|[ivx]+)"
"""A letter stands apart: "Table t" has no more to say than "Table 3", but a tablet is a thing."""


@cache
def _generic() -> re.Pattern[str]:
    heads = "|".join(sorted(map(re.escape, {*HEADS, *_MORE_HEADS}), key=len, reverse=True))
    things = "|".join(sorted(map(re.escape, THINGS), key=len, reverse=True))
    of = r"(?:of|with|showing|that shows|shows)"
    return re.compile(rf"(?:{_ARTICLES} ?)(?:{heads})s?(?:{_NUMBER})?(?: {of} ?(?:{things})?)?")


_FIXED = frozenset(text.rstrip(".").lower() for text in (*PLACE_HOLDERS, *_MORE_PLACE_HOLDERS, *BOILERPLATE))


def is_generic(text: str, in_link: bool = False) -> bool:
    """Whether the text would suit any image: "image", "Figure 3", "alt text", "Click to enlarge".

    in_link: whether the text names the target of a link or button. "Map" may be right there.
    """
    plain = " ".join(text[: _LONGEST_NAME + 1].lower().split()).strip(f" .…:;,!?*{_QUOTES}")
    if in_link:
        return re.sub(r"^(?:an?|the) | ?\d+$", "", plain) in _NAMELESS_IN_LINKS
    return plain in _FIXED or bool(_generic().fullmatch(plain))


_IMAGE_OF = re.compile(
    r"(?i)\W*(?:(?:this|here|it) is )?(?:an?|the|this)? ?(?:image|picture|photo|photograph|pic|graphic)s? "
    r"(?:(?:that|which) )?(?:of|shows?|showing|depicts?|depicting|displays?|displaying|features?|featuring|"
    r"represents?|representing|illustrates?|illustrating)\b"
)


def says_image_of(text: str) -> str | None:
    """The words by which a text begins if they say that it is an image, such as "Image of"; None otherwise.

    A word between tells what kind of image it is, and that may matter: "A satellite image of".
    """
    match = _IMAGE_OF.match(text)
    return match[0].strip() if match else None


_MACHINE_MADE = re.compile(
    r"(?i)(?:(?:description|caption|alt text)\s+(?:was\s+)?(?:automatically|auto)[ -]?generated"
    r"|description generated with (?:\w{1,9} ){0,3}confidence"
    r"|AI[ -]generated content may be incorrect)\.?\s*$"
    r"|^\W*(?:image may contain\b|may be an? (?:[\w-]+ ){0,3}(?:image|photo|illustration|drawing) of\b)"
)


def machine_remark(text: str) -> str | None:
    """The words by which a program says that it wrote the text; None without such words."""
    match = _MACHINE_MADE.search(text)
    return match[0].strip() if match else None


def is_only_punctuation(text: str) -> bool:
    """Whether the text holds only marks, which screen readers skip: no letter, number or symbol."""
    return bool(regex.fullmatch(r"[\p{P}\p{Z}\p{C}\p{M}\s|~=+<>^`$]*", text))


_TEMPLATE = re.compile(
    r"\{\{[-{]?\s[^{}]+\s[-}]?\}\}|(?<![\\\w^_}{])\{\{[^{}]+\}\}|\{%(?:(?!\{%).)+?%\}|<\?(?:php|=)|<%"
)
"""Without spaces inside, the braces may belong to a formula: ``x_{{a}}``."""


def is_template(text: str) -> bool:
    """Whether a program fills in a part of the text: ``{{ title }}``, ``{% url %}``, ``<?= $x ?>``..."""
    return bool(_TEMPLATE.search(text))


def words_of(text: str) -> list[str]:
    """The words of a text in order, in lower case."""
    return re.findall(r"\w+(?:['\u2019-]\w+)*", text.lower())


_LABEL = re.compile(
    r"(?i)^\W*(?:figure|fig|image|photo|table|abb|abbildung)\.?\s*\d+(?:[.\u2013-]\d+)*[a-z]?\W*"
)


def same_words(one: str, other: str) -> bool:
    """Whether two texts have the same words; the number of a figure before them does not count."""
    first, second = (words_of(_LABEL.sub("", text)) for text in (one, other))
    return bool(first) and first == second


def is_repeated_beside(text: str, before: str, after: str) -> bool:
    """Whether the words before the image end with the text, or those after it begin with it.

    One or two words may stand there by chance, so a text needs three.
    """
    words = words_of(text)
    if len(words) < 3:
        return False
    return words_of(before)[-len(words) :] == words or words_of(after)[: len(words)] == words


_OTHER_WORDS = frozenset(
    listed(
        "der die das und ist ein eine einer eines mit auf dem den von zu im nicht le la les des du une et "
        "est dans sur avec pour qui el los las una y con por del para il lo gli di che nella della è os um "
        "uma com não het een van op niet en na z jest och ett med som är"
    )
)
"""Words of grammar in German, French, Spanish, Italian, Portuguese, Dutch, Polish and Swedish."""


def is_other_language(text: str) -> bool:
    """Whether two words, and more than of English, are grammar of another language with Latin letters."""
    words = words_of(text)
    others = sum(word in _OTHER_WORDS for word in words)
    return others >= 2 and others > sum(word in FUNCTION_WORDS for word in words)


_SEPARATOR = re.compile(r"\s*[,;|/•·]\s*|\s+[\u2013-]\s+")
_VERB_FORM = re.compile(r"\w{2,}(?:ing|ed|s)$")


def is_keyword_list(text: str) -> bool:
    """Whether the text is a list of keywords rather than a sentence or a phrase.

    At least four items without grammar between commas, eight words without any grammar, or one word again and
    again. Lists of names and of short labels are none.
    """
    words = words_of(text)
    if len(words) < 4 or not is_latin(text):
        return False
    counts = Counter(word for word in words if word not in FUNCTION_WORDS and len(word) > 2)
    if max(counts.values(), default=0) >= max(4, len(words) / 2):
        return True
    if FUNCTION_WORDS & set(words) or re.search(r"[.!?:]\s+\w", text):
        return False
    items = [item for item in _SEPARATOR.split(text.strip(" .,;")) if item]
    if len(items) >= 4:
        return all(len(item.split()) <= 2 for item in items) and not _is_list_of_names(items)
    return len(items) == 1 and len(words) >= 8 and not any(_VERB_FORM.search(word) for word in words[:-1])


def is_latin(text: str) -> bool:
    """Whether at least half of a text's letters are Latin ones."""
    letters = [c for c in text if c.isalpha()]
    return sum(c > "\u024f" for c in letters) * 2 <= len(letters)


def _is_list_of_names(items: list[str]) -> bool:
    """Whether most items begin with a capital letter or hold a digit, or are too short to be words."""
    named = [bool(re.match(r"[A-Z\d\W]", item)) or bool(re.search(r"\d", item)) for item in items]
    short = sum(len(item) < 3 for item in items)
    return sum(named[1:]) * 2 >= len(items) - 1 or short * 2 >= len(items)


MOST_WORDS = 250
"""Words of the longest text that is still easy to hear in one go, if it has sentences."""
MOST_WORDS_UNBROKEN = 80
"""Words of the longest part without a full stop, semicolon or colon."""


def longest_part(text: str) -> int:
    """Words of the longest part of a text between full stops, semicolons and colons."""
    return max(len(words_of(part)) for part in re.split(r"[.!?;:\u3002\uff01\uff1f](?:\s|$)", text))


_WORD = r"\w++(?:['\u2019-]++\w++)*+"
_DRAWN = regex.compile(  # no character can be read in two ways, or a row of dashes would take forever
    rf"(?i)\W*+(?:{_WORD}\W++){{0,5}}?(?:\w++['\u2019-]++)*?(chart|graph|diagram|"
    r"flow ?chart|plot|histogram|scatter ?plot|schematic|equation|formula|formulae|"
    r"timeline|infographic|screen ?shot|map|table (?:of|show|list|with)|"
    r"structural formula|molecular structure|lewis structure|web page|user interface)(?:s|ing)?\b"
)


def drawn_kind(*texts: str | None) -> str | None:
    """The word by which a text says at its beginning that its image is a chart, diagram, map or the like."""
    return next((match[1].lower() for text in texts if text and (match := _DRAWN.match(text))), None)
