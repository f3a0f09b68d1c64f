"""The model under evaluation."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from lengthen.data.tokenizer_folder import TextTokenizer
from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT


@dataclass(frozen=True)
class Subject:
    """A trained model where it runs, and the tokenizer that it knows."""

    name: str
    model: GPT  # dropout off, on `place.device`, without a padded vocabulary
    text: TextTokenizer
    place: DistributedContext
    pass_tokens: int  # about how many tokens go through the model at once

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without its separator."""
        return self.text.tokenizer
