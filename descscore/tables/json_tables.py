"""Tables in one JSON value, told by what it holds: a list of rows, clipscore's, COCO's or Concadia's files.

A file is read as a whole. :data:`_FORMS` lists what is known.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from descscore.errors import DataError, ImageError, InputError
from descscore.formats import IMAGE_SUFFIXES
from descscore.tables.cells import CELL_LIMIT, Number, compression, id_text, load_json, named, text_coding
from descscore.tables.reader import FileTable, Mark, Record, Usual, file_fingerprint, open_file
from descscore.tables.samples import is_hidden

JSON_LIMIT = 1 << 30
"""Bytes of the largest JSON file that is read as a whole."""

MOST_PARTS = 1 << 25
"""Most brackets, commas and colons of such a file. What stands between two of them may take 200 bytes."""

CONCADIA = "wiki_split.json"
"""The name of Concadia's release."""

_MOST_IMAGES = 10_000_000
"""Most files in a folder in which images are found by their names without endings."""


_ROOT_HINT = "; --image-root names the folder of the images"


class _Repeated(dict[str, Any]):
    """An object that has a key twice. name: the key."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) == len(pairs):
        return cells
    repeated = _Repeated(cells)
    repeated.name = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
    return repeated


def read_json_table(path: Path) -> Any:
    """The value in a JSON file, in UTF-8 or in UTF-16 with a byte order mark.

    Raises:
        DataError: It is too large, no text or no JSON, or an object at its top has a key twice.
    """
    text = _text_in(path)
    if sum(map(text.count, "[{,:")) > MOST_PARTS:
        raise DataError(
            f"{path}: its JSON has over {MOST_PARTS:,} parts; JSON Lines (.jsonl) has no such limit"
        )
    try:
        value = load_json(text, object_pairs_hook=_object, parse_float=Number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}){_lines_hint(text)}") from None
    if isinstance(value, _Repeated):
        raise DataError(f"{path}: has key {named([value.name])} more than once")
    return value


def _lines_hint(text: str) -> str:
    """What to say of a text that is no JSON if its first line is an object by itself."""
    try:
        found = isinstance(load_json(text[:CELL_LIMIT].lstrip().partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        found = False
    return "; it looks like JSON Lines: give it the ending .jsonl, or --input-format jsonl" if found else ""


def _text_in(path: Path) -> str:
    with open_file(path) as file:
        # read() reserves all the memory that it is asked for.
        data = file.read(min(os.fstat(file.fileno()).st_size, JSON_LIMIT) + 1)
    if len(data) > JSON_LIMIT:
        raise DataError(f"{path}: holds over {JSON_LIMIT:,} bytes")
    if compression(data):
        raise DataError(f"{path}: {compression(data)}")
    coding, start = text_coding(data)
    try:
        return str(memoryview(data)[start:], coding)
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise DataError(f"{path}: is not UTF-8 text ({where})") from None


class _Form(NamedTuple):
    """Rows in a JSON file. usual: the names of its columns by role; by_name: whether images lack endings."""

    rows: Sequence[Any]
    usual: Usual
    by_name: bool = False


def _concadia(value: Any) -> _Form | None:
    """``{"images": [...]}``, whose texts are fields ``{"raw": text, "tokens": [...]}``.

    Source: Kreiss et al. 2022, Concadia (arXiv 2104.08376).
    """
    entries = value.get("images") if isinstance(value, dict) else None
    if not isinstance(entries, list) or "annotations" in value:
        return None
    rows = [
        {k: v.get("raw") if type(v) is dict else v for k, v in entry.items()}
        if type(entry) is dict
        else entry
        for entry in entries
    ]
    return _Form(rows, {"id": ("filename",), "text": ("description",)})


def _karpathy(value: Any) -> _Form | None:
    """``{"images": [{filename, sentences: [{raw, sentid}]}]}``: a row for each sentence.

    COCO's images have a folder ``filepath``. Source: Karpathy and Fei-Fei 2015 (arXiv 1412.2306).
    """
    entries = value.get("images") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        return None
    texts = [entry.get("sentences") if isinstance(entry, dict) else None for entry in entries]
    if not any(isinstance(sentences, list) for sentences in texts):
        return None
    rows: list[Any] = []
    for entry, sentences in zip(entries, texts, strict=True):
        if type(entry) is not dict or not isinstance(sentences, list) or not sentences:
            rows.append(entry)
            continue
        below, name = entry.get("filepath") or "", entry.get("filename")
        file = (
            os.path.join(below, name) if isinstance(below, str) and isinstance(name, str) and name else None
        )
        rows += [{**one, "file_name": file} if type(one) is dict else one for one in sentences]
    return _Form(rows, {"id": ("sentid",), "image": ("file_name",), "text": ("raw",)})


_COCO: Usual = {"image": ("file_name",), "text": ("caption",)}


def _coco_annotations(value: Any) -> _Form | None:
    """COCO's captions: ``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``."""
    parts = ("images", "annotations")
    if not isinstance(value, dict) or not all(isinstance(value.get(part), list) for part in parts):
        return None
    files = _coco_files(value["images"])
    rows = [
        {**entry, "file_name": files.get(image_key(entry.get("image_id")))} if type(entry) is dict else entry
        for entry in value["annotations"]
    ]
    return _Form(rows, _COCO)


def _coco_files(images: list[Any]) -> dict[str, Any]:
    """The files of COCO's images by id; an error in place of one whose id another has, too."""
    files: dict[str, Any] = {}
    for image in images:
        key = image_key(image.get("id")) if isinstance(image, dict) else ""
        if key:
            file = image.get("file_name")
            if files.setdefault(key, file) != file or isinstance(image, _Repeated):
                files[key] = ImageError("bad_image_type", f"which file is the image {named([key])}?")
    return files


def _coco_results(value: Any) -> _Form | None:
    """COCO's results: ``[{image_id, caption}]``. An image with several captions has its number in the ids."""
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict) or not {"image_id", "caption"} <= first.keys() or "image" in first:
        return None
    counts = Counter(image_key(entry.get("image_id")) for entry in value if isinstance(entry, dict))
    taken = {*counts, *(image_key(entry.get("id")) for entry in value if isinstance(entry, dict))}
    mark = "#"
    while any(
        f"{name}{mark}{n + 1}" in taken for name, most in counts.items() if most > 1 for n in range(most)
    ):
        mark += "#"
    seen: Counter[str] = Counter()
    rows = []
    for entry in value:
        if type(entry) is dict and "id" not in entry:
            name = image_key(entry.get("image_id"))
            seen[name] += 1
            entry = {
                **entry,
                "id": f"{name}{mark}{seen[name]}" if counts[name] > 1 and name else entry.get("image_id"),
            }
        rows.append(entry)
    return _Form(rows, {"image": ("image_id",), "text": ("caption",)}, by_name=True)


def _clipscore(value: Any) -> _Form | None:
    """The candidates of jmhessel/clipscore: ``{"image1": "text"}``."""
    if not isinstance(value, dict) or (value and not any(isinstance(text, str) for text in value.values())):
        return None
    return _Form(
        [{"id": name, "image": name, "text": text} for name, text in value.items()], {}, by_name=True
    )


def _rows(value: Any) -> _Form | None:
    """A list of objects, each a row."""
    return _Form(value, {}) if isinstance(value, list) else None


_FORMS: tuple[Callable[[Any], _Form | None], ...] = (
    *(_karpathy, _concadia, _coco_annotations, _coco_results, _clipscore, _rows),
)
"""The known forms. The first one that a value has is taken."""


def image_key(value: object) -> str:
    """What an id in one file and in another have in common: ``3`` and ``"3"`` are the same image."""
    if isinstance(value, Number) and math.isinf(value):
        return value.written
    return id_text(value) or ""


@dataclass(frozen=True)
class JsonTable(FileTable):
    """The rows of a JSON file. The mark of a row is its number."""

    root: Path | None = None
    """The folder of images that have only names or numbers; by default the file's own."""
    annotations: Path | None = None
    """A file with references by image, and for COCO with the images' files."""

    @cached_property
    def _form(self) -> _Form:
        value = read_json_table(self.path)
        forms = (_concadia,) if self.path.name == CONCADIA else _FORMS
        form = next((form for read in forms if (form := read(value)) is not None), None)
        if form is None:
            raise DataError(
                f"{self.path}: no list of rows, no texts by image (clipscore), no results or annotations "
                f"of COCO, and no list 'images' in it as in Concadia's {CONCADIA}"
            )
        if self.annotations is not None and not form.by_name:
            raise DataError(
                f"{self.path}: its images need no annotations; they belong to COCO's results or clipscore"
            )
        return form

    @cached_property
    def _annotated(self) -> _Annotations:
        if self.annotations is None:
            return _Annotations({}, {})
        annotated = _Annotations.read(self.annotations)
        ids = {image_key(row.get(self._image)) for row in self._form.rows if isinstance(row, dict)}
        if ids and ids.isdisjoint([*annotated.files, *annotated.references]):
            raise DataError(
                f"{self.annotations}: knows none of the images of {self.path}, such as {named(ids, 1)}"
            )
        return annotated

    @cached_property
    def _index(self) -> ImageNames:
        return ImageNames(self.root or self.path.parent)

    @property
    def _image(self) -> str:
        return self._form.usual.get("image", ("image",))[0]

    @property
    def missing_hint(self) -> str:
        is_usual = self.root in (None, self.path.parent)
        return _ROOT_HINT if is_usual and (self._form.by_name or "image" in self._form.usual) else ""

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the file itself.
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    @property
    def usual(self) -> Usual:
        references: Usual = {"references": ("references",)} if self._annotated.references else {}
        return {**self._form.usual, **references}

    def fingerprint(self, texts: Sequence[str]) -> dict[str, Any]:
        own = file_fingerprint(self.path)
        return own if self.annotations is None else {**own, "annotations": file_fingerprint(self.annotations)}

    def names(self, wanted: Collection[str] = ()) -> list[str]:
        """The keys of the first rows, and all of those ``wanted``."""
        names: dict[str, None] = dict.fromkeys(["references"] if self._annotated.references else [])
        for row in self._form.rows:
            if isinstance(row, dict):
                names |= dict.fromkeys(name for name in row if name in wanted or len(names) < 100)
        return list(names) or list(wanted)

    def count(self) -> int:
        return len(self._form.rows)

    def records(self, roles: Mapping[str, str], mark: Mark = None) -> Iterator[Record]:
        for number in range(mark[0] if mark else 0, len(self._form.rows)):
            yield Record(self._form.rows[number], [number])

    def cells(self, content: Any, roles: Mapping[str, str]) -> Mapping[str, Any]:
        if not isinstance(content, dict):
            raise InputError("bad_row", f"expected an object, got {type(content).__name__}")
        if isinstance(content, _Repeated):
            raise InputError("bad_row", f"the object has key {named([content.name])} more than once")
        for value in content.values():
            if isinstance(value, _Repeated):
                raise InputError("bad_row", f"an object in it has key {named([value.name])} more than once")
        column = roles.get("id", "")
        cells = {**content, column: getattr(content.get(column), "written", content.get(column))}
        if self._form.by_name and roles.get("image") == self._image:
            name = image_key(content.get(self._image))
            cells[self._image] = self._annotated.files.get(name) or self._index.find(name)
            cells.setdefault("references", self._annotated.references.get(name))
        return cells


class _Annotations(NamedTuple):
    """What a file of annotations says of images, by id: their files and their references."""

    files: dict[str, Any]
    references: dict[str, list[Any]]

    @classmethod
    def read(cls, path: Path) -> _Annotations:
        """From COCO's annotations, or from the references of clipscore: ``{"image1": ["...", "..."]}``."""
        value = read_json_table(path)
        form = _coco_annotations(value)
        if form is None:
            if isinstance(value, dict) and value and all(isinstance(texts, list) for texts in value.values()):
                return cls({}, value)
            raise DataError(f"{path}: neither COCO's annotations nor lists of texts by image")
        files = {key: file for key, file in _coco_files(value["images"]).items() if file}
        references: defaultdict[str, list[Any]] = defaultdict(list)
        for row in form.rows:
            if isinstance(row, dict):
                references[image_key(row.get("image_id"))].append(row.get("caption"))
        return cls(files, dict(references))


class ImageNames:
    """The images in a folder by their names without endings, and by the numbers at the ends of these."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        files: defaultdict[str, list[str]] = defaultdict(list)
        try:
            with os.scandir(self._folder) as entries:
                for count, entry in enumerate(entries):
                    if count >= _MOST_IMAGES:
                        raise DataError(f"{self._folder}: holds over {_MOST_IMAGES:,} files")
                    stem, suffix = os.path.splitext(entry.name)
                    if suffix.lower() not in IMAGE_SUFFIXES or is_hidden(entry.name):
                        continue
                    files[stem].append(entry.name)
                    number = re.fullmatch(r"(?:.*_)?0*([0-9]+)", stem)
                    if number and number[1] != stem:
                        files[number[1]].append(entry.name)
        except OSError as error:
            raise DataError(f"{self._folder}: {error.strerror or error}") from None
        return dict(files)

    def find(self, name: str) -> str | ImageError:
        """The file of an image, or why there is none: not raised, so that a fault of the text comes first."""
        if not name:
            return ImageError("missing_image", "has no image")
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES or "/" in name:
            return name
        files = self._files.get(name, [])
        if len(files) == 1:
            return files[0]
        if files:
            return ImageError(
                "bad_image_type", f"which file is the image {named([name])}? ({named(sorted(files))})"
            )
        reason = f"{self._folder} holds no image called {named([name])}{_ROOT_HINT}"
        return ImageError("missing_image", reason)
