"""What lm-eval asks of a model, without a word of lm-eval's."""

import hashlib
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

from lengthen.config.schema import known_device
from lengthen.distributed.context import DTYPES, DistributedContext
from lengthen.distributed.device import device_of
from lengthen.evaluation.generate import generate
from lengthen.evaluation.model import Subject
from lengthen.evaluation.requests import Request, requests_of
from lengthen.evaluation.scoring import score
from lengthen.evaluation.windows import windows
from lengthen.exchange.pretrained import read
from lengthen.util.errors import DataError, SettingError, nearest

PASS_TOKENS = 8192
NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
NEW_TOKENS_DEFAULT = 256  # as lm-eval's own models


class Adapter:
    """The methods of lm-eval's `LM`, to be joined with it in one class."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.tokens = 0  # scored so far
        self.asked = hashlib.sha256()  # of all requests so far, with the items that they are of

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], _: object = None) -> Self:
        """Return the model of `path=RUN,device=auto,precision=fp32`; batches have no setting."""
        return cls(_loaded(**arg_dict))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, _: object = None) -> Self:
        """Do the same for the text."""
        pairs = (part.partition("=") for part in arg_string.split(",") if part)
        return cls.create_from_arg_obj({name: value for name, _, value in pairs})

    def loglikelihood(self, requests: Sequence[Any], **_: object) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the likeliest."""
        self._take_note(requests)
        pairs = [request.args for request in requests]
        scores = self._score(requests_of(self.subject.text, pairs))
        return [(-loss, greedy) for loss, greedy in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: object) -> list[float]:
        """Return the log-likelihood of each text, in windows of the full length."""
        self._take_note(requests)
        tokenizer, length = self.subject.tokenizer, self.subject.model.length
        texts = [request.args[0] for request in requests]
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        first = self.subject.text.separator
        of_texts = [list(windows((first, *each.ids), length, length)) for each in encodings]
        scores = iter(self._score(list(chain.from_iterable(of_texts))))
        return [-sum(loss for loss, _ in islice(scores, len(each))) for each in of_texts]

    def generate_until(self, requests: Sequence[Any], **_: object) -> list[str]:
        """Return the greedy text behind each context, up to one of its stops."""
        self._take_note(requests)
        by_options: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for number, request in enumerate(requests):
            options = _stops(request.args[1]), self._most(request.args[1])
            by_options.setdefault(options, []).append(number)
        texts = [""] * len(requests)
        for (stops, most), numbers in by_options.items():
            contexts = [requests[number].args[0] for number in numbers]
            encodings = self.subject.tokenizer.encode_batch(contexts, add_special_tokens=False)
            first = self.subject.text.separator
            prompts = [tuple(each.ids) or (first,) for each in encodings]
            new = generate(self.subject, prompts, stops=stops, most=most, label="lm-eval")
            for number, text in zip(numbers, new, strict=True):
                texts[number] = text
        return texts

    def _take_note(self, requests: Sequence[Any]) -> None:
        for request in requests:
            item = repr((getattr(request, "doc", None), request.args))
            self.asked.update(item.encode("utf-8", "surrogatepass"))

    def _score(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        length = self.subject.model.length
        if longest := max((len(r.continuation) for r in requests if not r.fits(length)), default=0):
            rule = f"an answer of {longest} tokens exceeds the model's full length"
            raise DataError(f"lm-eval: {rule} ({length})")
        scores = score(self.subject, requests, "lm-eval")
        self.tokens += sum(each.tokens for each in scores)
        return [(each.loss, each.greedy) for each in scores]

    def _most(self, options: dict[str, Any]) -> int:
        if options.get("do_sample"):
            raise DataError(
                "lm-eval: the task draws its answers; lengthen gives the likeliest alone"
            )
        given = (options[name] for name in NEW_TOKENS if options.get(name) is not None)
        most = int(next(given, NEW_TOKENS_DEFAULT))
        if most >= self.subject.model.length:
            rule = f"the task wants {most} new tokens, which must be below the model's full length"
            raise DataError(f"lm-eval: {rule} ({self.subject.model.length})")
        return most


def _stops(options: dict[str, Any]) -> tuple[str, ...]:
    until = options.get("until") or ()
    # An empty stop would end every answer before it begins.
    return tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)


def _loaded(path: str, device: str = "auto", precision: str = "fp32") -> Subject:
    if precision not in DTYPES:
        raise SettingError("precision", nearest(precision, DTYPES), precision)
    context = DistributedContext(device_of(str(known_device(device))), precision)
    pretrained = read(Path(path))
    model = pretrained.gpt().to(context.device, context.dtype)
    return Subject(Path(path).name, model, pretrained.text, context, PASS_TOKENS)
