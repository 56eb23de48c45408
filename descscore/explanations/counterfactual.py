"""What a text would score if it spoke with another text's purpose, by interchange in the subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.errors import UsageError
from descscore.interventions import Exchange, interchange_texts, join_tokens
from descscore.models import LoadedModel
from descscore.texts import TokenizedText, pad


@dataclass(frozen=True)
class Swapped:
    """features: ``(n, embed_dim)`` unit features of the texts with the source's purpose.
    source_probability: that the source is a description, None without a read-out."""

    features: Tensor
    source_probability: float | None


@torch.no_grad()
def swap_purpose(model: LoadedModel, texts: Sequence[TokenizedText], source: TokenizedText) -> Swapped:
    """n texts with the purpose of ``source``; every window of a text takes on that of its first window.

    Raises :class:`UsageError` for a model without a purpose subspace.
    """
    purpose = model.purpose
    if purpose is None:
        raise UsageError(
            f"model {model.name}: has no purpose subspace, so no text can take on another's purpose"
        )
    first = pad(source.rows[:1]).to(model.device)
    features, state = [], first.new_zeros(0)
    for text in texts:
        tokens = join_tokens([pad(text.rows).to(model.device), first])
        count = len(text.rows)
        base = torch.arange(count, device=model.device)
        exchange = Exchange(base, torch.full_like(base, count))
        found = interchange_texts(model.clip, tokens, exchange, purpose.rotation, purpose.site)
        unit = F.normalize(found.swapped.float(), dim=-1)
        weights = torch.tensor(text.weights, device=unit.device)
        features.append(F.normalize(weights @ unit, dim=-1))
        state = found.state[-1:]
    probability = purpose.probability(state.float())
    return Swapped(torch.stack(features), None if probability is None else float(probability))
