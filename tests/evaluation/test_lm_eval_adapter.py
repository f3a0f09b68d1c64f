"""lm-eval's tasks on local files, with our model: the choices are those of `hf`."""

import importlib
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.evaluation.generate import generate
from lengthen.evaluation.lambada import lambada
from lengthen.evaluation.lm_eval_adapter import (
    LMEvalAdapter,
    model_class,
    run_task,
    write_definition,
)
from lengthen.evaluation.models import EvalOptions
from lengthen.evaluation.scoring import requests_of, score
from lengthen.evaluation.task_files import LM_EVAL_TASKS
from lengthen.util.errors import DataError, SettingError
from tests.conftest import SHARED
from tests.evaluation.made import exported, model_of, needs_sets, tiny_model

MODEL = tiny_model(length=128)
ITEMS = 20  # of each task, where it is compared with lm-eval's own model
NEAR = 1e-5  # nats; the two best answers may change places in fp32 below
LAMBADA = SHARED / "lambada/test.jsonl"

# They warn about each other, and about what they will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """Nothing here has a way to the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("DISABLE_MULTIPROC", "1")
        yield


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformers folder of a random model."""
    return exported(tmp_path_factory.mktemp("agreement"))


def piqa_rows(count: int) -> list[dict[str, Any]]:
    answers = ["salt", "a glass of water", "fire", "wood"]
    return [
        {
            "goal": f"put out {n * n} of {answers[n % 4]}",
            "sol1": answers[n % 3],
            "sol2": f"{answers[(n + 1) % 4]} {n}",
            "label": n % 2,
        }
        for n in range(count)
    ]


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def evaluated(
    model: Any, sets: Path | None, name: str, folder: Path, limit: int, shots: int
) -> Any:
    """What lm-eval says of a model on the local task, item by item."""
    write_definition(name, sets, folder)
    tasks: Any = importlib.import_module("lm_eval.tasks")
    return importlib.import_module("lm_eval").simple_evaluate(
        model=model,
        tasks=[name],
        num_fewshot=shots,
        limit=limit,
        bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_path=str(folder), include_defaults=False),
    )


def of_hf(folder: Path, dtype: str = "float64") -> Any:
    models: Any = importlib.import_module("lm_eval.models.huggingface")
    return models.HFLM(pretrained=str(folder), dtype=dtype, batch_size=8, device="cpu")


def assert_same_choices(ours: Any, theirs: Any, name: str) -> None:
    assert ours["results"][name] == pytest.approx(theirs["results"][name], nan_ok=True)
    for one, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
        assert one["arguments"] == other["arguments"]
        for left, right in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            if isinstance(right, str):
                assert left == right
            else:
                assert left[0] == pytest.approx(right[0], rel=1e-9)
                assert left[1] == right[1]


# Against lm-eval's own model


@pytest.mark.parametrize("shots", [0, 2])
def test_choices_are_those_of_hf(hf: Path, tmp_path: Path, shots: int) -> None:
    sets = write_rows(tmp_path / "sets", "piqa.jsonl", piqa_rows(9))
    model = model_class()(model_of(hf))
    ours = evaluated(model, sets, "piqa", tmp_path, 9, shots)
    assert_same_choices(ours, evaluated(of_hf(hf), sets, "piqa", tmp_path, 9, shots), "piqa")


@pytest.mark.parametrize("qk_norm", [False, True], ids=["llama", "qwen3"])
def test_choices_of_todays_models_are_those_of_hf(tmp_path: Path, qk_norm: bool) -> None:
    gated = {"positions": "rope", "norm": "rms", "mlp": "swiglu", "mlp_width": 80, "kv_heads": 1}
    others = {"bias": False, "tied": False, "qk_norm": qk_norm, "norm_eps": 1e-6}
    hf = exported(tmp_path, **gated, **others)
    sets = write_rows(tmp_path / "sets", "piqa.jsonl", piqa_rows(9))
    ours = evaluated(model_class()(model_of(hf, "fp32")), sets, "piqa", tmp_path, 9, 2)
    theirs = evaluated(of_hf(hf, "float32"), sets, "piqa", tmp_path, 9, 2)
    assert ours["results"]["piqa"] == pytest.approx(theirs["results"]["piqa"], nan_ok=True)
    for one, other in zip(ours["samples"]["piqa"], theirs["samples"]["piqa"], strict=True):
        for left, right in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert left[0] == pytest.approx(right[0], rel=1e-6)


def test_an_empty_context_is_the_separator_also_where_hf_reads_another(
    hf: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(hf, tmp_path / "hf"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "bos_token": "!"}), "utf-8")
    request = importlib.import_module("lm_eval.api.instance").Instance
    asked = [request("loglikelihood", {}, ("", " a dog"), 0, ("none", 0, 1))]
    ours, as_export = (
        model_class()(model_of(one)).loglikelihood(asked)[0][0] for one in (folder, hf)
    )
    of_its_bos, of_separator = (of_hf(one).loglikelihood(asked)[0][0] for one in (folder, hf))
    assert ours == as_export == pytest.approx(of_separator, rel=1e-9)
    assert abs(of_its_bos - ours) > 1e-6


@needs_sets
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in LM_EVAL_TASKS if not n.startswith(("anli", "web"))])
def test_so_they_are_on_every_published_set(hf: Path, tmp_path: Path, name: str) -> None:
    ours = evaluated(model_class()(model_of(hf)), None, name, tmp_path, ITEMS, 0)
    assert_same_choices(ours, evaluated(of_hf(hf), None, name, tmp_path, ITEMS, 0), name)


@needs_sets
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hellaswag", "piqa", "arc_easy"])
def test_in_single_precision_only_near_ties_are_decided_otherwise(
    hf: Path, tmp_path: Path, name: str
) -> None:
    ours = evaluated(model_class()(model_of(hf, "fp32")), None, name, tmp_path, ITEMS, 0)
    theirs = evaluated(of_hf(hf, "float32"), None, name, tmp_path, ITEMS, 0)
    for one, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
        mine, others = ([each[0] for each in s["filtered_resps"]] for s in (one, other))
        best, second = sorted(others)[-1:-3:-1]
        assert mine.index(max(mine)) == others.index(best) or best - second < NEAR


@pytest.mark.slow
@pytest.mark.skipif(not LAMBADA.exists(), reason="a user's clone has no shared data")
def test_our_lambada_is_that_of_lm_eval(hf: Path, tmp_path: Path) -> None:
    model = model_of(hf)
    texts = [json.loads(line)["text"] for line in LAMBADA.read_text().splitlines()[: ITEMS // 2]]
    # A random model knows no last word; after the same passages its own are right.
    prompts = [tuple(model.tokenizer.encode(text).ids) for text in texts]
    own = generate(model, prompts, stops=(), limit=1)
    texts += [text + word for text, word in zip(texts, own, strict=True) if word.startswith(" ")]
    write_rows(tmp_path, "lambada.jsonl", [{"text": text} for text in texts])
    tasks: Any = importlib.import_module("lm_eval.tasks")
    definition = {
        "include": str(Path(tasks.__file__).parent / "lambada/lambada_openai.yaml"),
        "task": "local_lambada",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "lambada.jsonl")}},
    }
    (tmp_path / "local.yaml").write_text(json.dumps(definition), encoding="utf-8")
    results = importlib.import_module("lm_eval").simple_evaluate(
        model=of_hf(hf),
        tasks=["local_lambada"],
        bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
    )["results"]["local_lambada"]
    accuracy, perplexity = lambada(model, EvalOptions(sets=tmp_path)).measures
    assert 0 < accuracy.value < 1
    assert accuracy.value == results["acc,none"]
    assert perplexity.value == pytest.approx(results["perplexity,none"], rel=1e-9)


# Outcomes


def test_a_local_task_gives_an_outcome(tmp_path: Path) -> None:
    rows = piqa_rows(9)
    sets = write_rows(tmp_path, "piqa.jsonl", rows)
    outcome = run_task("piqa", MODEL, EvalOptions(sets=sets, limit=7))
    assert (outcome.task, outcome.items) == ("piqa", 7)
    assert outcome.tokens == sum(2 + len(r["sol1"]) + len(r["sol2"]) for r in rows[:7])
    assert dict(outcome.settings)["set"] == str(sets / "piqa.jsonl")
    assert [measure.name for measure in outcome.measures] == ["acc", "acc_norm"]
    for measure in outcome.measures:
        assert measure.error == pytest.approx(math.sqrt(measure.value * (1 - measure.value) / 6))
        assert measure.chance == 0.5


def test_the_likeliest_answer_is_chosen_as_a_whole_and_by_character(tmp_path: Path) -> None:
    rows = piqa_rows(12)
    outcome = run_task("piqa", MODEL, EvalOptions(sets=write_rows(tmp_path, "piqa.jsonl", rows)))
    right = [0, 0]
    for row in rows:
        answers = [row["sol1"], row["sol2"]]
        pairs = [(f"Question: {row['goal']}\nAnswer:", f" {answer}") for answer in answers]
        losses = [each.loss for each in score(MODEL, requests_of(MODEL.text, pairs))]
        per_character = [loss / len(a) for loss, a in zip(losses, answers, strict=True)]
        for number, each in enumerate((losses, per_character)):
            right[number] += each.index(min(each)) == row["label"]
    assert [measure.value for measure in outcome.measures] == [each / 12 for each in right]


def test_a_free_answer_is_right_if_it_is_one_of_the_aliases(tmp_path: Path) -> None:
    prompt = tuple(b"Question: who??\nAnswer:")
    (answer,) = generate(MODEL, [prompt], stops=("\n", ".", ","), limit=64)
    rows = [
        {"question": "who?", "answer": {"aliases": ["somebody", answer.strip().upper()]}},
        {"question": "who?", "answer": {"aliases": ["somebody", "else"]}},
    ]
    sets = write_rows(tmp_path, "triviaqa.jsonl", rows)
    (measure,) = run_task("triviaqa", MODEL, EvalOptions(sets=sets)).measures
    assert (measure.value, measure.chance) == (0.5, None)


def test_sets_that_no_package_has_are_read_with_the_fields_of_the_hub(tmp_path: Path) -> None:
    anli = [{"premise": "It rains.", "hypothesis": "It is dry.", "label": n} for n in (0, 1, 2)]
    write_rows(tmp_path, "anli/test_r2.jsonl", anli)
    write_rows(tmp_path, "webqs.jsonl", [{"question": "who?", "answers": ["he", "she", "it"]}] * 2)
    (accuracy,) = run_task("anli_r2", MODEL, EvalOptions(sets=tmp_path)).measures
    assert [accuracy.value, accuracy.chance] == pytest.approx([1 / 3, 1 / 3])
    (match,) = run_task("webqs", MODEL, EvalOptions(sets=tmp_path)).measures
    assert (match.name, match.chance) == ("exact_match", None)


def test_shots_come_from_the_training_part_and_follow_the_seed(tmp_path: Path) -> None:
    rows = piqa_rows(30)
    write_rows(tmp_path, "piqa/validation.jsonl", rows[:4])
    write_rows(tmp_path, "piqa/train.jsonl", rows[4:])
    model = tiny_model(length=512)
    options = [EvalOptions(sets=tmp_path, shots=2, seed=seed) for seed in (0, 0, 1)]
    first, same, other = (run_task("piqa", model, each) for each in options)
    assert first.measures == same.measures
    assert first.settings == same.settings != other.settings
    assert ("shots", "2") in first.settings
    write_rows(tmp_path, "piqa/train.jsonl", piqa_rows(9)[8:] * 2)
    only = run_task("piqa", model, EvalOptions(sets=tmp_path, shots=1, limit=1))
    row, shot = rows[0], piqa_rows(9)[8]
    header = f"Question: {shot['goal']}\nAnswer: {shot['sol1']}\n\nQuestion: {row['goal']}\nAnswer:"
    pairs = [(header, f" {row[name]}") for name in ("sol1", "sol2")]
    losses = [each.loss for each in score(model, requests_of(model.text, pairs))]
    assert only.measures[0].value == (losses[0] < losses[1])


def test_an_item_is_never_its_own_shot(tmp_path: Path) -> None:
    """Two items, of which the other one must be drawn."""
    sets = write_rows(tmp_path, "piqa.jsonl", piqa_rows(2))
    results = evaluated(model_class()(tiny_model(length=512)), sets, "piqa", tmp_path, 2, 1)
    for sample in results["samples"]["piqa"]:
        (context, _), *_ = sample["arguments"]
        assert context.count(sample["doc"]["goal"]) == 1
    with pytest.raises(SettingError, match="--shots: are more than piqa has items"):
        run_task("piqa", MODEL, EvalOptions(sets=sets, shots=2))


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    rows = [
        {"goal": "x", "sol1": "y" * 200, "sol2": "z", "label": 1},
        {"goal": "x" * 200, "sol1": "y", "sol2": "z", "label": 0},
    ]
    sets = write_rows(tmp_path, "piqa.jsonl", rows)
    outcome = run_task("piqa", MODEL, EvalOptions(sets=sets))
    assert outcome.notes == (
        "answers that exceed the full length (128), given probability 0: 1",
        "contexts that lost their left end, since they exceed it (128): 2",
    )
    assert outcome.measures[0].value >= 0.5  # the answer that fits is chosen
    write_rows(tmp_path, "piqa.jsonl", [{**rows[0], "sol2": "z" * 200}])
    with pytest.raises(DataError, match=r"piqa: no answer fits .* \(128 tokens\)"):
        run_task("piqa", MODEL, EvalOptions(sets=sets))


def test_answers_that_join_their_context_are_counted() -> None:
    brackets = Tokenizer(models.BPE({"(": 0, ")": 1, "()": 2, ";": 3}, [("(", ")")]))
    adapter = LMEvalAdapter(replace(MODEL, text=TextTokenizer(brackets, 3)))
    adapter.loglikelihood([asked("(", ");"), asked("(", ";"), asked("", ");")])
    (note,) = adapter.notes()
    assert note.endswith("other tokens than their own are scored, as by lm-eval: 1")


def test_random_numbers_are_the_callers(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run_task("piqa", MODEL, EvalOptions(sets=write_rows(tmp_path, "piqa.jsonl", piqa_rows(2))))
    assert torch.equal(torch.get_rng_state(), before)


# Tasks of one's own

TASK = {
    "task": "tiny_choice",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "doc_to_text": "{{goal}}",
    "doc_to_target": "label",
    "doc_to_choice": "{{[sol1, sol2]}}",
    "metric_list": [{"metric": "acc"}],
}


def with_own_task(folder: Path, rows: str = "rows.jsonl") -> Path:
    write_rows(folder, "rows.jsonl", piqa_rows(9))
    options = {"data_files": {"validation": str(folder / rows)}, "cache_dir": str(folder / "c")}
    (folder / "tiny.yaml").write_text(json.dumps({**TASK, "dataset_kwargs": options}))
    return folder


def test_a_folder_of_sets_may_define_tasks_for_lm_eval(tmp_path: Path) -> None:
    sets = with_own_task(tmp_path)
    outcome = run_task("lm-eval:tiny_choice", MODEL, EvalOptions(sets=sets, limit=7))
    assert (outcome.task, outcome.items) == ("lm-eval:tiny_choice", 7)
    assert outcome.measures[0].chance == 0.5


def test_f56_a_task_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: Any = importlib.import_module("lm_eval.tasks")
    manager = library.TaskManager
    # Without lm-eval's own tasks, which it takes ten seconds to index.
    monkeypatch.setattr(
        library, "TaskManager", lambda **o: manager(**{**o, "include_defaults": False})
    )
    with pytest.raises(SettingError, match="no such task, got 'tiny_choise'; did you mean"):
        run_task("lm-eval:tiny_choise", MODEL, EvalOptions(sets=with_own_task(tmp_path)))


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        (
            '{"goal": "a", "sol1": "b", "label": 0}',
            "; its rows must have the fields of baber/piqa on the hub",
        ),
        ('{"goal": "a"}\n{"goal"', "JSON parse error"),
        ("[" * 100_000, ""),
    ],
)
def test_a_task_that_fails_is_one_line(tmp_path: Path, rows: str, cause: str) -> None:
    (tmp_path / "piqa.jsonl").write_text(rows)
    with pytest.raises(DataError, match="set .*piqa.jsonl: lm-eval's task piqa failed") as raised:
        run_task("piqa", MODEL, EvalOptions(sets=tmp_path))
    assert cause in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("drawn", [{}, {"fewshot_config": {"sampler": "first_n"}}])
def test_more_shots_than_items_are_a_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: dict[str, Any]
) -> None:
    changed = replace(LM_EVAL_TASKS["piqa"], changes=tuple(drawn.items()))
    monkeypatch.setitem(LM_EVAL_TASKS, "piqa", changed)
    sets = write_rows(tmp_path, "piqa.jsonl", piqa_rows(4))
    with pytest.raises(SettingError, match="--shots: are more than piqa has items .*, got 4"):
        run_task("piqa", MODEL, EvalOptions(sets, shots=4))


def test_f53_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(SettingError, match="need the package lm_eval; pip install lm-eval"):
        run_task("piqa", MODEL, EvalOptions())


# What lm-eval asks of a model


def asked(*args: object) -> SimpleNamespace:
    return SimpleNamespace(
        args=args, doc=None, request_type="loglikelihood", task_name="t", doc_id=0
    )


def test_a_rolling_text_is_the_sum_of_its_windows() -> None:
    text = "words and words " * 20
    (log_likelihood,) = LMEvalAdapter(MODEL).loglikelihood_rolling([asked(text)])
    ids = torch.tensor([256, *text.encode()])
    total = 0.0
    for first in range(0, len(ids) - 1, 128):
        new = ids[first + 1 : first + 129]
        window = ids[max(0, first + len(new) - 128) : first + len(new)]
        log_p = MODEL.gpt.logits(window[None])[0].log_softmax(dim=1)[-len(new) :]
        total += float(log_p.gather(1, new[:, None]).sum())
    assert log_likelihood == pytest.approx(total, rel=1e-12)


def test_texts_are_generated_up_to_their_own_stops() -> None:
    options = [{"until": ["\n"], "max_gen_toks": 5}, {"until": "x", "max_new_tokens": 7}]
    texts = LMEvalAdapter(MODEL).generate_until([asked("a", options[0]), asked("", options[1])])
    first = generate(MODEL, [tuple(b"a")], stops=["\n"], limit=5)
    second = generate(MODEL, [(256,)], stops=["x"], limit=7)
    assert texts == [*first, *second]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "draws its answers"),
        ({"max_gen_toks": 128}, r"wants 128 new tokens, .* \(128\)"),
    ],
)
def test_what_lm_eval_may_ask_and_we_cannot_do_is_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        LMEvalAdapter(MODEL).generate_until([asked("a", options)])
