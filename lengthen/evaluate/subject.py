"""The model under evaluation."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from lengthen.devices import Place
from lengthen.model import GPT


@dataclass(frozen=True)
class Subject:
    """A trained model where it runs, and the tokenizer that it knows."""

    name: str
    model: GPT  # dropout off, on `place.device`, without a padded vocabulary
    tokenizer: Tokenizer
    place: Place
    pass_tokens: int  # about how many tokens go through the model at once
