"""Greedy continuations are those of one prompt at a time without a cache."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthen.evaluation.generate import generate
from tests.evaluation.made import tiny_subject

SUBJECT = tiny_subject()
LENGTH = SUBJECT.model.length
prompts = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=60).map(tuple), max_size=6)


@torch.no_grad()
def alone(prompt: tuple[int, ...], most: int) -> list[int]:
    """The definition: the whole text anew for each token."""
    text = list(prompt[-(LENGTH - most) :])
    new: list[int] = []
    while len(new) < most and new[-1:] != [256]:
        new.append(int(SUBJECT.model.logits(torch.tensor([text + new]))[0, -1].argmax()))
    return new


@settings(max_examples=40)
@given(prompts, st.integers(1, 12), st.integers(1, 300))
def test_each_prompt_goes_on_as_it_would_alone(
    given_prompts: list[tuple[int, ...]], most: int, pass_tokens: int
) -> None:
    subject = replace(SUBJECT, pass_tokens=pass_tokens)
    found = generate(subject, given_prompts, stops=(), most=most)
    decode = SUBJECT.tokenizer.decode
    assert found == [decode(alone(prompt, most)) for prompt in given_prompts]


@settings(max_examples=40)
@given(prompts)
def test_an_answer_ends_ahead_of_its_first_stop(given_prompts: list[tuple[int, ...]]) -> None:
    whole = generate(SUBJECT, given_prompts, stops=(), most=12)
    # Half a character is shown as another, which is nobody's stop.
    stops = ["ab", *(text[len(text) // 2] for text in whole if text)]
    stops = [stop for stop in stops if stop != "\N{REPLACEMENT CHARACTER}"]
    found = generate(SUBJECT, given_prompts, stops=stops, most=12)
    for text, all_of_it in zip(found, whole, strict=True):
        ends = [all_of_it.find(stop) for stop in stops if stop in all_of_it]
        assert text == all_of_it[: min(ends, default=None)]
