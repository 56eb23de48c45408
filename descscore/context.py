"""A description in its context: the contextual score of Kreiss et al. 2022.

With c and d the raw embeddings of the surrounding text and of the description, i that of
the image, and ^ for unit vectors, the contextual score is ``c·d̂ + d·(î - ĉ)``, which equals
``‖d‖·cos(i, d) + (‖c‖ - ‖d‖)·cos(c, d)``: what the description shares with the image, plus
what it shares with the context where the context's embedding is the longer one. Source:
Kreiss et al., Context Matters for Image Descriptions for Accessibility (EMNLP 2022), and
the code published with it.

There the description is scored with the prefix "A photo depicts " and the context without
one. Here neither has a prefix: the contextual score is then made of the very cosine that is
reported beside it, of a model tuned on descriptions without that prefix, and the prefix
takes no room from texts that are cut.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from descscore.errors import TextError
from descscore.texts import TokenizedText

CONTEXT_SIGNATURE = "context:kreiss2022-no-prefix"
"""What a signature says where a contextual score was made."""


def contextual_scores(
    cosines: Tensor, norms: Tensor, context_cosines: Tensor, context_norms: Tensor
) -> Tensor:
    """``‖d‖·cos(i, d) + (‖c‖ - ‖d‖)·cos(c, d)``, ``(n,)`` each.

    cosines: of image and description. norms: lengths ‖d‖ of the descriptions' raw
    embeddings. context_cosines: of context and description. context_norms: ‖c‖.
    The result has no fixed range: its scale is that of the model's embeddings.
    """
    return norms * cosines + (context_norms - norms) * context_cosines


def tokenize_context(tokenize: Callable[[str], TokenizedText], context: object) -> TokenizedText | None:
    """Tokens of a context; None where there is none: None, blank, or nothing that can be read.

    Raises :class:`TextError` with kind ``bad_context`` for what is not a text, or is too
    long under the text policy ``error``.
    """
    if context is None:
        return None
    try:
        return tokenize(context)  # type: ignore[arg-type]
    except TextError as error:
        if error.kind == "empty_text":
            return None
        raise TextError("bad_context", f"context: {error}") from None
