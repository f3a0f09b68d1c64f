"""Our figures are those of others on the same items of the published sets.

A random model is enough: the figures mean nothing, and every digit of them must agree.
"""

import json
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.evaluation import sets
from lengthen.evaluation.generate import generate
from lengthen.evaluation.lambada import lambada
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Outcome
from lengthen.evaluation.prompts import QUESTIONS, Item
from lengthen.evaluation.requests import Pair, requests_of
from lengthen.evaluation.scoring import Score, score
from lengthen.evaluation.tasks import TASKS
from tests.conftest import SHARED
from tests.evaluation.local_tasks import FILES, evaluate, write_tasks
from tests.evaluation.made import exported, needs_sets, subject_of

pytestmark = [pytest.mark.filterwarnings("ignore"), needs_sets]

ITEMS = 100  # of each set, where it is compared with lm-eval
NEAR = 1e-5  # nats; the two best answers may change places in fp32 below
CHOICES = [name for name in QUESTIONS if name in FILES]
LAMBADA = SHARED / "lambada/test.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Transformers folder of a random model, without a way to the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("DISABLE_MULTIPROC", "1")
        yield exported(tmp_path_factory.mktemp("agreement"))


def first_items(name: str, count: int) -> list[Item]:
    question = QUESTIONS[name]
    return [question.item(row) for row in sets.load(question.place, None).rows[:count]]


def by_transformers(folder: Path, pairs: list[Pair]) -> Iterator[Score]:
    """One pair at a time, all logits, by Transformers' model and tokenizer."""
    library = import_module("transformers")
    model = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    for context, continuation in pairs:
        whole = tokenizer(context + continuation, return_tensors="pt").input_ids
        count = whole.shape[1] - len(tokenizer(context).input_ids)
        with torch.no_grad():
            log_p = model(whole).logits[0, :-1].log_softmax(dim=1)[-count:]
        targets = whole[0, -count:]
        loss = -float(log_p.gather(1, targets[:, None]).sum())
        yield Score(loss, bool((log_p.argmax(dim=1) == targets).all()), count)


def test_scores_are_those_of_transformers_on_every_set(folder: Path) -> None:
    pairs = [pair for name in CHOICES for item in first_items(name, 2) for pair in item.pairs]
    subject = subject_of(folder)
    ours = score(subject, requests_of(subject.text, pairs))
    for found, wanted in zip(ours, by_transformers(folder, pairs), strict=True):
        assert found.loss == pytest.approx(wanted.loss, rel=1e-9)
        assert (found.greedy, found.tokens) == (wanted.greedy, wanted.tokens)


def test_lambada_is_that_of_transformers(folder: Path) -> None:
    outcome = lambada(subject_of(folder), Wanted(limit=12))
    rows = sets.load(import_module("lengthen.evaluation.tasks").PLACES["lambada"], None).rows[:12]
    pairs = [(row["request"]["context"], row["request"]["continuation"]) for row in rows]
    wanted = list(by_transformers(folder, pairs))
    accuracy, perplexity = outcome.measures
    assert accuracy.value == sum(each.greedy for each in wanted) / 12
    mean = sum(each.loss for each in wanted) / 12
    assert perplexity.value == pytest.approx(math.exp(mean), rel=1e-4)


def hf(folder: Path, dtype: str) -> Any:
    """lm-eval's own model."""
    models = import_module("lm_eval.models.huggingface")
    return models.HFLM(pretrained=str(folder), dtype=dtype, batch_size=8, device="cpu")


def figures(told: Any, name: str) -> dict[str, float]:
    return {
        key.partition(",")[0]: value
        for key, value in told["results"][f"local_{name}"].items()
        if isinstance(value, float)
    }


def assert_same_figures(outcome: Outcome, theirs: dict[str, float]) -> None:
    ours = {measure.name: measure.value for measure in outcome.measures}
    assert ours["accuracy"] == theirs["acc"]
    if "acc_norm" in theirs:
        assert ours["normalised accuracy"] == theirs["acc_norm"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_those_of_lm_eval(folder: Path, tmp_path: Path, name: str) -> None:
    write_tasks(tmp_path, [name])
    told = evaluate(hf(folder, "float64"), tmp_path, name, ITEMS)
    items = first_items(name, ITEMS)
    subject = subject_of(folder)
    assert_same_figures(TASKS[name](subject, Wanted(limit=ITEMS)), figures(told, name))
    for sample in told["samples"][f"local_{name}"]:
        item = items[sample["doc_id"]]
        assert [tuple(each) for each in sample["arguments"]] == list(item.pairs)
        ours = score(subject, requests_of(subject.text, item.pairs))
        theirs = [each[0] for each in sample["filtered_resps"]]
        assert [-each.loss for each in ours] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_in_single_precision_only_near_ties_are_decided_otherwise(
    folder: Path, tmp_path: Path, name: str
) -> None:
    write_tasks(tmp_path, [name])
    told = evaluate(hf(folder, "float32"), tmp_path, name, ITEMS)
    subject = subject_of(folder, "fp32")
    items, others = first_items(name, ITEMS), 0
    for sample in told["samples"][f"local_{name}"]:
        pairs = items[sample["doc_id"]].pairs
        ours = [-each.loss for each in score(subject, requests_of(subject.text, pairs))]
        theirs = [each[0] for each in sample["filtered_resps"]]
        best, second = sorted(theirs)[-1:-3:-1]
        differs = ours.index(max(ours)) != theirs.index(best)
        assert not differs or best - second < NEAR
        others += differs
    print(f"{name}: {others} of {len(items)} decided otherwise")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["piqa", "arc_easy", "winogrande"])
def test_shots_stand_as_lm_eval_sets_them(folder: Path, tmp_path: Path, name: str) -> None:
    write_tasks(tmp_path, [name])
    task = tmp_path / f"local_{name}.yaml"
    part = "fewshot_split: validation\nfewshot_config: {sampler: first_n}\n"
    task.write_text(task.read_text() + part, encoding="utf-8")
    told = evaluate(hf(folder, "float64"), tmp_path, name, 8, shots=2)
    items = first_items(name, 8)
    header = "".join(item.solved + "\n\n" for item in items[:2])
    for sample in told["samples"][f"local_{name}"]:
        wanted = [(header + before, after) for before, after in items[sample["doc_id"]].pairs]
        assert [tuple(each) for each in sample["arguments"]] == wanted


@pytest.mark.slow
@pytest.mark.skipif(not LAMBADA.exists(), reason="a user's clone has no shared data")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_lambada_is_that_of_lm_eval(folder: Path, tmp_path: Path, dtype: str) -> None:
    subject = subject_of(folder, {"float64": "fp64", "float32": "fp32"}[dtype])
    texts = [json.loads(line)["text"] for line in LAMBADA.read_text().splitlines()[: ITEMS // 2]]
    # A random model knows no last word; behind the same passages its own are right.
    prompts = [tuple(subject.tokenizer.encode(text).ids) for text in texts]
    own = generate(subject, prompts, stops=(), most=1)
    texts += [text + word for text, word in zip(texts, own, strict=True) if word.startswith(" ")]
    file = tmp_path / "lambada.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    write_tasks(tmp_path, ["lambada"], {"lambada": file})
    theirs = figures(evaluate(hf(folder, dtype), tmp_path, "lambada", ITEMS), "lambada")
    accuracy, perplexity = lambada(subject, Wanted(sets=file)).measures
    assert accuracy.value == theirs["acc"]
    assert 0 < accuracy.value < 1
    assert perplexity.value == pytest.approx(theirs["perplexity"], rel=1e-4)


@pytest.mark.slow
def test_answers_are_those_of_lm_eval(folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path, ["triviaqa"])
    task = tmp_path / "local_triviaqa.yaml"
    short = "generation_kwargs: {until: ['\\n', '.', ','], do_sample: false, max_gen_toks: 32}\n"
    task.write_text(task.read_text() + short, encoding="utf-8")
    told = evaluate(hf(folder, "float64"), tmp_path, "triviaqa", 20)
    adapter = import_module("lengthen.evaluation.lm_eval_tasks").model_class()(subject_of(folder))
    ours = evaluate(adapter, tmp_path, "triviaqa", 20)
    texts = [[each["resps"] for each in one["samples"]["local_triviaqa"]] for one in (told, ours)]
    assert texts[0] == texts[1]
    outcome = TASKS["triviaqa"](subject_of(folder), Wanted(limit=20))
    assert outcome.measures[0].value == figures(told, "triviaqa")["exact_match"]
