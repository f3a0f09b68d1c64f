"""What a Trainer really trains on decides: each way to compute a loss works, or is one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lengthen.core.pacing import Linear
from lengthen.integrations.micro_batches import MicroBatchWatch
from lengthen.integrations.transformers import LengthenCallback
from lengthen.integrations.validate import ExpectedBatch
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import StepRecord
from lengthen.util.errors import SettingError
from tests.integrations.hosted import PLAN, hosted, llama
from tests.ways_out import takes

SHORT = replace(PLAN, budget=600)  # five steps
MEASURED = ("loss", "grad_norm", "tokens", "lr")

Inputs = dict[str, Any]


def steps(out: Path) -> list[StepRecord]:
    return read_metrics(RunPaths(out / "run").metrics).steps


@pytest.fixture(scope="module")
def plain(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[StepRecord]:
    """The steps of a Trainer that nobody changed."""
    out = tmp_path_factory.mktemp("plain")
    hosted(store, out, SHORT).trainer.train()
    return steps(out)


def must_be_plain(out: Path, plain: list[StepRecord]) -> None:
    assert len(steps(out)) == len(plain) > 3
    for one, other in zip(steps(out), plain, strict=True):
        for name in MEASURED:
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=2e-5)


def cross_entropy(logits: Tensor, targets: Tensor, number: Any) -> Tensor:
    flat = logits.float().flatten(0, 1)
    loss: Tensor = functional.cross_entropy(flat, targets.flatten(), reduction="sum") / number
    return loss


# A loss of one's own


class Own(Trainer):
    """Takes the labels out and computes the loss from the logits."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        targets = inputs.pop("shift_labels")
        inputs.pop("labels")
        output = model(**inputs)
        loss = self.loss_of(output, targets, num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def loss_of(self, output: Any, targets: Tensor, number: Any) -> Any:
        return cross_entropy(output.logits, targets, number)


class Models(Trainer):
    """Takes the model's loss, as the Trainer does, with something done before or after."""

    numbered = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        number = {"num_items_in_batch": num_items_in_batch} if self.numbered else {}
        output = model(**self.given_to(inputs), **number)
        loss = self.after(output.loss, model)
        return (loss, output) if return_outputs else loss

    def given_to(self, inputs: Inputs) -> Inputs:
        return inputs

    def after(self, loss: Tensor, model: nn.Module) -> Tensor:
        return loss


class LogsALoss(Models):
    def after(self, loss: Tensor, model: nn.Module) -> Tensor:
        self.log({"loss": 1e3 * loss.item(), "learning_rate": 1.0})
        return loss


class CallsItTwice(Models):
    """Looks at the same batch beforehand, without a gradient, dropout on."""

    def given_to(self, inputs: Inputs) -> Inputs:
        model: Any = self.model
        with torch.no_grad():
            model(**inputs)
        return inputs


@pytest.mark.parametrize("kind", [Own, Models, LogsALoss, CallsItTwice])
def test_a_right_loss_may_be_computed_anywhere(
    store: Path, tmp_path: Path, plain: list[StepRecord], kind: type[Trainer]
) -> None:
    hosted(store, tmp_path, SHORT, kind=kind).trainer.train()
    must_be_plain(tmp_path, plain)


def aligned(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(output["logits"], labels, num_items_in_batch)


def test_a_loss_function_gets_the_targets_as_labels(
    store: Path, tmp_path: Path, plain: list[StepRecord]
) -> None:
    hosted(store, tmp_path, SHORT, given={"compute_loss_func": aligned}).trainer.train()
    must_be_plain(tmp_path, plain)


def shifts_again(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(output.logits[:, :-1], labels[:, 1:], num_items_in_batch)


def averages(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(output.logits, labels, labels.numel())


def smoothed(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
    total = functional.cross_entropy(
        output.logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=0.01
    )
    return total / num_items_in_batch


class Half(Own):
    def loss_of(self, output: Any, targets: Tensor, number: Any) -> Any:
        return super().loss_of(output, targets, number) / 2


class WithZLoss(Own):
    def loss_of(self, output: Any, targets: Tensor, number: Any) -> Any:
        z = 1e-5 * output.logits.logsumexp(-1).square().sum() / number
        return super().loss_of(output, targets, number) + z


class FromElsewhere(Own):
    """Trains another head than the one whose logits the model returns."""

    def loss_of(self, output: Any, targets: Tensor, number: Any) -> Any:
        model: Any = self.model
        hidden = model.get_input_embeddings()(targets)
        return cross_entropy(model.get_output_embeddings()(hidden), targets, number)


class Unnumbered(Models):
    """Written before there was a number, or to look at the loss of a device."""

    numbered = False


class MeanOfMeans(Unnumbered):
    """A mean of means, which is right only where all micro-batches are as large."""

    def after(self, loss: Tensor, model: nn.Module) -> Tensor:
        return loss / 4


class Prefixed(Models):
    def given_to(self, inputs: Inputs) -> Inputs:
        return {**inputs, "input_ids": torch.zeros_like(inputs["input_ids"])}


class BackwardByHand(Models):
    """Sends its loss back itself, and then the Trainer does so once more."""

    def after(self, loss: Tensor, model: nn.Module) -> Tensor:
        if model.training:
            torch.autograd.backward(loss, retain_graph=True)
        return loss


WRONG: dict[str, tuple[type[Trainer], Callable[..., Tensor] | None, str]] = {
    "half": (Half, None, r"loss: must be the cross entropy .* had 0\.5 times it; hand num_items"),
    "z-loss": (
        WithZLoss,
        None,
        "loss: must be .* trained on another one; leave out label smoothing",
    ),
    "elsewhere": (
        FromElsewhere,
        None,
        "nothing that the model returned; compute it from the logits or take its own",
    ),
    "unnumbered": (
        Unnumbered,
        None,
        "num_items_in_batch.* had 5 times it; hand num_items_in_batch",
    ),
    "mean of means": (MeanOfMeans, None, r"had 1\.25 times it; hand num_items_in_batch on"),
    "other inputs": (
        Prefixed,
        None,
        "model: must be called once .*; leave input_ids as they are in compute_loss",
    ),
    "shifts again": (Trainer, shifts_again, "loss: must be .* trained on another one"),
    "averages": (Trainer, averages, "loss: must be .* had 5 times it"),
    "by hand": (BackwardByHand, None, "loss: must be .* had 2 times it"),
    "smoothed": (Trainer, smoothed, "loss: must be .* leave out label smoothing"),
}


@takes(
    "leave input_ids as they are in compute_loss",
    "compute it from the logits or take its own",
    "leave out label smoothing, z-losses and router losses; take shift_labels as they are",
)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_is_refused_before_the_first_update(
    store: Path, tmp_path: Path, name: str
) -> None:
    kind, function, message = WRONG[name]
    given = {"compute_loss_func": function} if function else {}
    host = hosted(store, tmp_path, SHORT, kind=kind, given=given)
    before = [one.clone() for one in host.model.parameters()]
    with pytest.raises(SettingError, match=message) as error:
        host.trainer.train()
    assert "\n" not in str(error.value)
    assert all(map(torch.equal, before, host.model.parameters()))
    # Nothing is in the way of a second try.
    hosted(store, tmp_path, SHORT, max_steps=1).trainer.train()
    assert len(steps(tmp_path)) == 1


def test_the_number_does_not_matter_to_a_step_of_one_pass(
    store: Path, tmp_path: Path, plain: list[StepRecord]
) -> None:
    host = hosted(store, tmp_path, SHORT, kind=Unnumbered, gradient_accumulation_steps=1)
    host.trainer.train()
    must_be_plain(tmp_path, plain)


class Regularised(Models):
    """Adds a term that no output of the model shows."""

    def after(self, loss: Tensor, model: nn.Module) -> Tensor:
        return loss + 1e-4 * sum(one.square().sum() for one in model.parameters())


def test_a_term_that_no_output_shows_is_refused_by_what_the_trainer_logs(
    store: Path, tmp_path: Path
) -> None:
    trainer = hosted(store, tmp_path, SHORT, kind=Regularised).trainer
    with pytest.raises(SettingError, match="loss: must be .* the Trainer trained on, got 5"):
        trainer.train()
    assert steps(tmp_path) == []


class LaterRegularised(Models):
    """Adds its term from the third step on."""

    def after(self, loss: Tensor, model: nn.Module) -> Tensor:
        return loss + (0.01 if self.state.global_step >= 2 else 0.0)


def test_a_term_of_a_later_step_is_refused_before_the_step_is_recorded(
    store: Path, tmp_path: Path
) -> None:
    trainer = hosted(store, tmp_path, SHORT, kind=LaterRegularised).trainer
    with pytest.raises(SettingError, match=r"loss: must be .* in step 3; the Trainer trained on"):
        trainer.train()
    assert len(steps(tmp_path)) == 2


class OwnMeans(Own):
    """A mean over each micro-batch, which the Trainer divides by their number."""

    def loss_of(self, output: Any, targets: Tensor, number: Any) -> Any:
        self.loss_is_scaled_for_ga = False
        return super().loss_of(output, targets, targets.numel())


def test_a_mean_of_means_is_refused_at_the_first_step_of_unequal_micro_batches(
    store: Path, tmp_path: Path
) -> None:
    # Eight rows in four micro-batches of two; a longer step of as many tokens has seven or fewer.
    plan = replace(SHORT, rows=1, hold="tokens", pacing=Linear(start=8, end=64, duration=12))
    host = hosted(store, tmp_path, plan, kind=OwnMeans)
    before = [one.clone() for one in host.model.parameters()]
    with pytest.raises(SettingError, match="loss: must be .* this step had .* times it"):
        host.trainer.train()
    done = steps(tmp_path)
    assert [(step.rows or 1) % 4 for step in done] == [0] * len(done)
    assert len(done) > 0
    assert not all(map(torch.equal, before, host.model.parameters()))


class Silent(Trainer):
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "grad_norm" in logs and self.state.global_step == 2:
            return
        super().log(logs, start_time)


def test_a_step_that_is_not_logged_is_refused_at_the_next(store: Path, tmp_path: Path) -> None:
    trainer = hosted(store, tmp_path, SHORT, kind=Silent).trainer
    with pytest.raises(SettingError, match="log: must call Trainer.log after every step"):
        trainer.train()
    assert len(steps(tmp_path)) == 1


# Other calls of the model


class Looks(TrainerCallback):
    """Calls the model at every event, as it is: in training mode."""

    def __init__(self, call: Callable[[Any], object]) -> None:
        self.call, self.calls = call, 0

    def look(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **met: Any
    ) -> None:
        assert met["model"].training
        self.call(met["model"])
        self.calls += 1

    on_step_begin = on_substep_end = on_pre_optimizer_step = on_step_end = look


def quietly(model: Any) -> None:
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]]))


def with_a_gradient(model: Any) -> None:
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]]))


def generates(model: Any) -> None:
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, pad_token_id=0, do_sample=False)


@pytest.mark.parametrize("call", [quietly, with_a_gradient, generates])
@pytest.mark.parametrize("first", [True, False])
def test_other_calls_of_the_model_are_not_recorded(
    store: Path, tmp_path: Path, plain: list[StepRecord], call: Any, first: bool
) -> None:
    looks = Looks(call)
    host = hosted(store, tmp_path, SHORT)
    callbacks = host.trainer.callback_handler.callbacks
    callbacks.insert(0 if first else len(callbacks), looks)
    host.trainer.train()
    assert looks.calls == len(plain) * 6
    must_be_plain(tmp_path, plain)


class Evaluates(TrainerCallback):
    """Has a whole evaluation made at the end of the second step, ahead of that step's line."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 2 and self.trainer:
            self.trainer.evaluate()


def test_an_evaluation_between_a_step_and_its_line_belongs_to_that_step(
    store: Path, tmp_path: Path, plain: list[StepRecord]
) -> None:
    host, evaluates = hosted(store, tmp_path, SHORT), Evaluates()
    evaluates.trainer = host.trainer
    host.trainer.add_callback(evaluates)
    host.trainer.train()
    must_be_plain(tmp_path, plain)
    (evaluation,) = read_metrics(RunPaths(tmp_path / "run").metrics).evaluations
    assert evaluation.step == 2


# Models that return something else


class Returns(nn.Module):
    """A Llama whose output is made into another form; it takes what its `forward` names."""

    def __init__(self, form: Callable[[Any], object]) -> None:
        super().__init__()
        self.inner, self.form = llama(), form

    def forward(self, **batch: Any) -> Any:
        return self.form(self.inner(**batch))


class Bare(nn.Module):
    """Knows of no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(input_ids=tokens).logits
        return logits


class ByPlace(Trainer):
    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        logits = model(inputs["input_ids"])
        # A Trainer counts no targets for a model that it need not tell.
        loss = cross_entropy(logits, inputs["shift_labels"], self.number)
        return (loss, {"logits": logits}) if return_outputs else loss

    def get_batch_samples(self, *args: Any) -> Any:
        samples, number = super().get_batch_samples(*args)
        self.number = sum(one["labels"].numel() for one in samples)
        self.loss_is_scaled_for_ga = True
        return samples, number

    def prediction_step(self, *args: Any, **options: Any) -> Any:
        self.number = args[1]["labels"].numel()
        return super().prediction_step(*args, **options)


FORMS: dict[str, tuple[Callable[[], nn.Module], type[Trainer]]] = {
    "dict": (lambda: Returns(dict), Trainer),
    "tuple": (lambda: Returns(lambda output: (output.loss, output.logits)), Trainer),
    "flat": (lambda: Returns(flat), Trainer),
    "logits": (Bare, ByPlace),
}


def flat(output: Any) -> dict[str, Tensor]:
    logits = output.logits.flatten(0, 1)
    return {"loss": output.loss, "logits": logits}


@pytest.mark.parametrize("name", FORMS)
def test_a_model_may_return_its_logits_in_any_form(
    store: Path, tmp_path: Path, plain: list[StepRecord], name: str
) -> None:
    make, kind = FORMS[name]
    changes: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 5}
    changes["label_names"] = ["labels"]
    host = hosted(store, tmp_path, SHORT, model=make(), kind=kind, **changes)
    host.trainer.pop_callback(host.callback)
    host.trainer.add_callback(LengthenCallback(host.dataset, tmp_path / "run", probe_every_steps=5))
    host.trainer.train()
    must_be_plain(tmp_path, plain)
    metrics = read_metrics(RunPaths(tmp_path / "run").metrics)
    (probe,), (evaluation,) = metrics.probes, metrics.evaluations[:1]
    assert probe.loss == pytest.approx(evaluation.loss, rel=1e-5)


def test_a_model_that_keeps_its_logits_is_refused(store: Path, tmp_path: Path) -> None:
    model = Returns(lambda output: {"loss": output.loss})
    with pytest.raises(SettingError, match="model: must return the logits of every token"):
        hosted(store, tmp_path, SHORT, model=model).trainer.train()


def test_a_model_that_detaches_its_logits_is_refused(store: Path, tmp_path: Path) -> None:
    model = Returns(lambda output: {"loss": output.loss, "logits": output.logits.detach()})
    with pytest.raises(SettingError, match="model: must return the logits .* without detach"):
        hosted(store, tmp_path, SHORT, model=model).trainer.train()


class Demanding(nn.Module):
    """Cannot do without a mask and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = llama()

    def forward(self, tokens: Tensor, mask: Tensor, *, scale: float, **batch: Any) -> Any:
        assert mask.all()
        assert (mask.shape, scale) == (tokens.shape, 1.0)
        return self.inner(input_ids=tokens, attention_mask=mask, **batch)


class Gives(Models):
    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        tokens, number = inputs.pop("input_ids"), num_items_in_batch
        mask = torch.ones_like(tokens)
        output = model(tokens, mask, scale=1.0, **inputs, num_items_in_batch=number)
        return (output.loss, output) if return_outputs else output.loss


def test_a_model_gets_its_masks_and_flags_wherever_it_is_called(
    store: Path, tmp_path: Path, plain: list[StepRecord]
) -> None:
    host = hosted(store, tmp_path, SHORT, model=Demanding(), kind=Gives)
    host.trainer.train()
    must_be_plain(tmp_path, plain)


# Kinds of models, good and bad, checked by one micro-batch


def check_first_step(model: nn.Module, length: int = 64) -> None:
    """Train one of two micro-batches as a Trainer does; raise what the first step raises."""
    chance = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(257, (2, 3, length), generator=chance)
    watch = MicroBatchWatch(model, vocabulary=257, length=64, count=2)
    watch.expect(ExpectedBatch(inputs, targets, number=6 * length))
    batch = {"input_ids": inputs, "labels": targets, "shift_labels": targets}
    output = model(**batch, num_items_in_batch=torch.tensor(6 * length))
    torch.autograd.backward(output["loss"])
    watch.finish(1.0)


SMALL: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}),
    "qwen2": ("Qwen2", {}),
    "softcapped": ("Gemma2", {"final_logit_softcapping": 5.0}),
    "experts": ("Mixtral", EXPERTS),
}


def of_kind(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    kind, own = GOOD[name]
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **own, **changes})
    return getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(
        config
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GOOD)
def test_the_causal_models_of_transformers_are_accepted(name: str, dtype: torch.dtype) -> None:
    check_first_step(of_kind(name).to(dtype))


def test_a_compiled_model_is_accepted() -> None:
    """Its backward may use up what its forward has kept: no graph of it is gone through twice."""
    compiled: Any = torch.compile(llama(), backend="aot_eager", dynamic=False)
    check_first_step(compiled)


@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_a_head_of_zeros_or_one_of_large_logits_is_accepted(scale: float) -> None:
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    check_first_step(model)


class Doubtful(nn.Module):
    """A Llama with a loss of another kind."""

    def __init__(self, loss: Callable[..., Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.loss = llama(), loss
        with torch.no_grad():
            self.inner.lm_head.weight.mul_(scale)

    def forward(
        self, input_ids: Tensor, num_items_in_batch: Any = None, **targets: Tensor
    ) -> dict[str, Tensor]:
        logits = self.inner(input_ids=input_ids).logits
        loss = self.loss(logits, input_ids, targets["shift_labels"], num_items_in_batch)
        return {"loss": loss, "logits": self.outward(logits)}

    def outward(self, logits: Tensor) -> Tensor:
        return logits


class Apart(Doubtful):
    """Returns a copy of its logits, through which no gradient flows, as under autocast."""

    def outward(self, logits: Tensor) -> Tensor:
        return logits * 1


def ignores(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Tensor:
    """Shift the inputs, whatever the targets say."""
    return cross_entropy(logits[:, :-1], inputs[:, 1:], number - len(inputs))


def once_more(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Tensor:
    return cross_entropy(logits[:, :-1], targets[:, 1:], number - len(inputs))


def mean(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Tensor:
    return cross_entropy(logits, targets, targets.numel())


def z_loss(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Any:
    z = 2e-5 * logits.float().logsumexp(-1).square().sum() / number
    return cross_entropy(logits, targets, number) + z


def entropy(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Any:
    """Reward certainty by a little."""
    log_p = logits.float().log_softmax(-1)
    return cross_entropy(logits, targets, number) - 1e-3 * (log_p.exp() * log_p).sum() / number


def rounded(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Any:
    return (
        functional.cross_entropy(
            logits.bfloat16().flatten(0, 1), targets.flatten(), reduction="sum"
        )
        / number
    )


def right(logits: Tensor, inputs: Tensor, targets: Tensor, number: Any) -> Any:
    """Write the same in other words, whose rounding is another."""
    z = logits.float()
    return (z.logsumexp(-1) - z.gather(-1, targets[..., None])[..., 0]).sum() / number


@pytest.mark.parametrize("kind", [Doubtful, Apart])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("loss", [ignores, once_more, mean, z_loss, entropy, rounded])
def test_a_model_with_another_loss_is_refused_however_long_the_row(
    kind: type[Doubtful], scale: float, loss: Callable[..., Tensor]
) -> None:
    for length in (8, 64):
        check_first_step(kind(right, scale), length)
        with pytest.raises(SettingError, match="must (be|compute) the cross entropy of shift_lab"):
            check_first_step(kind(loss, scale), length)


@pytest.mark.parametrize("loss", [ignores, once_more, z_loss])
def test_a_model_with_another_loss_is_refused_in_bfloat16(loss: Callable[..., Tensor]) -> None:
    check_first_step(Doubtful(right).bfloat16())
    with pytest.raises(SettingError, match="must be the cross entropy of shift_labels"):
        check_first_step(Doubtful(loss).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("coefficient", [1e-3, 2e-2])
def test_the_loss_of_a_router_is_refused(coefficient: float, dtype: torch.dtype) -> None:
    model = of_kind("experts", output_router_logits=True, router_aux_loss_coef=coefficient)
    with pytest.raises(SettingError, match="must (be|compute) the cross entropy"):
        check_first_step(model.to(dtype))
    check_first_step(
        of_kind("experts", output_router_logits=True, router_aux_loss_coef=0.0).to(dtype)
    )


def test_bfloat16_autocast_is_checked_as_well(store: Path, tmp_path: Path) -> None:
    hosted(store, tmp_path, SHORT, bf16=True).trainer.train()
    assert len(steps(tmp_path)) > 3
    with pytest.raises(SettingError, match="loss: must be .* trained on another one"):
        hosted(
            store, tmp_path / "wrong", SHORT, model=Returns(with_z_loss), bf16=True
        ).trainer.train()


def with_z_loss(output: Any) -> Any:
    output["loss"] = output["loss"] + 1e-4 * output["logits"].logsumexp(-1).square().mean() / 4
    return output
