"""Parts of speech from a spaCy model, where one is installed."""

from __future__ import annotations

from importlib.util import find_spec

from descscore.errors import UsageError
from descscore.eval.words.words import Tagger

USUAL = "en_core_web_sm"


def load_tagger(name: str) -> Tagger | None:
    """The tagger of spaCy model ``name``; for ``auto`` that of ``en_core_web_sm``, or None where it
    is not installed; None for ``none``.

    Raises :class:`UsageError` for a named model that cannot be loaded.
    """
    if name == "none" or (name == "auto" and not (find_spec("spacy") and find_spec(USUAL))):
        return None
    wanted = USUAL if name == "auto" else name
    try:
        import spacy

        pipeline = spacy.load(wanted)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"spaCy model {wanted!r} cannot be loaded ({reason}); see 'spacy download'"
        ) from None

    def tag(text: str) -> list[tuple[int, int, str]]:
        return [
            (token.idx, token.idx + len(token.text), token.pos_) for token in pipeline(text) if token.pos_
        ]

    return tag
