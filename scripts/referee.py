"""Do the tree of a base commit and this tree compute the same, to the last digit?

    python scripts/referee.py [--base COMMIT] [--only CASE]... [--keep DIR]

The same small runs are made with the base commit, in a second work tree, and with the tree that
this file lies in. Every file that they leave is compared: each line of the records, each setting,
each value of the state, each tensor bit by bit. One line a case; exit code 1 if any differs.

A throw-away: the words that the rebuild changes stand at the top, and all of it goes with them.
"""

import argparse
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BASE = "2404cf8"  # the last commit before the rebuild
HERE = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- old words -> new words
# Names are dotted; one that stands in a mapping is replaced wherever it is a whole part of a
# longer name: "clock": "counters" makes counters.step of clock.step. None: no longer written.
Names = dict[str, str | None]

SETTINGS: Names = {"budget.passes": "budget.epochs"}  # of files and command lines
# Of the lines of metrics.jsonl: {"lr": "learning_rate"}.
FIELDS: Names = {"overrides.budget.passes": "overrides.budget.epochs", "held": "steps_at_length"}
# Of every other JSON file. A checkpoint's format is another one, a store's is not: neither counts.
STATE: Names = {
    "pass_number": "epoch",
    "clock": "counters",
    **{"grown.seen": "adaptive.observed", "grown.best": "adaptive.lowest", "grown": "adaptive"},
    **{"course": "plan", "floor": "min_learning_rate"},
    "format": None,
    "numerics.world": "numerics.world_size",
}
EVENTS = {"smaller_passes": "micro_tokens_lowered"}  # values of the field `event`
KINDS: dict[str, str] = {}  # values of the field `kind` of a line
# Old name -> its old values -> new ones: {"run.compile": {False: "off", True: "on"}}. The old name
# counts wherever a name ends in it, so that this covers settings.run.compile of state.json too.
VALUES: dict[str, dict[Any, Any]] = {
    **{"event": dict(EVENTS), "kind": dict(KINDS)},
    **{name: {False: "off", True: "on"} for name in ("run.compile", "numerics.compile")},
}
# New names that only the new side writes: a field of a line, a setting, a value of the state.
ADDED: set[str] = {"format", "lowest", "calm", "steps_at_length", "forced", "diverged"}
# Texts for people, by regular expression, old -> new. Where one differs still, its numbers count.
TEXTS: dict[str, str] = {}
# Relative paths and names of tensors, by regular expression, old -> new:
# {r"checkpoints/(.*)/state\.json": r"checkpoints/\1/train_state.json"}
FILES: dict[str, str] = {}
TENSORS: dict[str, str] = {}
WORDS: dict[str, str] = {}  # whole words of command lines: {"--judge-tokens": "--tokens"}
FAULTS: dict[str, str] = {}  # LENGTHEN_FAULT: {"step:15:kill": "update:15:kill"}

# Never compared, on either side: what a clock decides, by the end of the dotted name.
CLOCK = {
    *("seconds", "side_seconds", "beside_seconds", "seconds_beside_computing", "metrics_bytes"),
    *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second"),  # of Transformers
    *("train_runtime", "train_samples_per_second", "train_steps_per_second"),
}
CLOCK_TEXT = r"and [\d,.]+ seconds \(about.*"  # in a text for people
CLOCK_COLUMN = "second"  # in the name of a table's column
# Names whose values are texts for people.
PROSE = {"verdicts", "title", "note", "columns", "why", "text", "reason", "message"}
# Files that are not compared: they hold times, paths of the tree, or hashes of files that do.
SKIPPED = (
    r"environment\.json|\.lock|.*\.html|.*\.log|attempts\.jsonl"
    r"|checkpoints/[^/]*/manifest\.json|trainer/.*\.(pt|pth|bin)"
)
DIGEST = r"(trials/.*|^start-.*)-[0-9a-f]{8}(?=$|[./])"  # of a trial's settings: new names, new one

# ---------------------------------------------------------------- somebody else's loops
OLD_PLAIN = """
import hashlib, json, sys
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lengthen.corpus.store import Store
from lengthen.pacing import Root
from lengthen.plug.plain import Course, Feed, RunLog

store, out = Store.open(Path(sys.argv[1])), Path(sys.argv[2])
course = Course(pacing=Root(start=8, end=64, duration=14), rows=10, budget=14_000, reuse_after=3,
                warmup_steps=4, floor=0.1, seed=5)
torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(257, 24), nn.GELU(), nn.Linear(24, 257))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
rates = course.rates(optimizer)

def mean_loss(inputs, targets):
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

def train(feed, log, steps):
    for step, parts in islice(feed, steps):
        losses = []
        for inputs, targets, length, share in parts:
            loss = share * mean_loss(inputs, targets)
            loss.backward()
            losses.append(loss.detach())
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        log.step(step, loss=sum(losses), grad_norm=norm, optimizer=optimizer)
        rates.step()
        optimizer.zero_grad()

feed, log = Feed(store.train, course, passes=3), RunLog(out, course, store=store)
train(feed, log, 15)
valid = torch.from_numpy(store.valid[:641].astype("int64"))
log.evaluation(mean_loss(valid[:-1].view(10, 64), valid[1:].view(10, 64)), side_tokens=640)
log.probe(mean_loss(valid[:64].view(1, 64), valid[1:65].view(1, 64)), side_tokens=64)
saved = {"feed": feed.state_dict(), "log": log.state_dict()}
log.close()
feed, log = Feed(store.train, course, passes=2), RunLog(out, course, store=store,
                                                        saved=saved["log"])
feed.load_state_dict(saved["feed"])
train(feed, log, None)
end = {"feed": feed.state_dict(), "log": log.state_dict(), "steps": course.number_of_steps()}
log.finish()

left = out.with_name("left")
left.mkdir()
(left / "saved.json").write_text(json.dumps(saved))
(left / "state.json").write_text(json.dumps(end))
moments = {f"{n}.{k}": v for n, p in model.named_parameters()
           for k, v in optimizer.state[p].items()}
save_file({**model.state_dict(), **moments}, left / "final.safetensors")
with (left / "batches.jsonl").open("w") as file:
    for rank in range(3):
        for step, parts in Feed(store.train, course, passes=2, rank=rank, world=3):
            for inputs, targets, length, share in parts:
                sha = hashlib.sha256(inputs.numpy().tobytes() + targets.numpy().tobytes())
                record = {"kind": "batch", "rank": rank, "step": step.number, "length": length,
                          "rows": len(inputs), "share": share, "sha256": sha.hexdigest()}
                file.write(json.dumps(record) + "\\n")
"""

OLD_TRAINER = """
import json, os, signal, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
)

from lengthen.pacing import Linear
from lengthen.plug.plain import Course
from lengthen.plug.transformers import LengthenCallback, LengthenDataset

store, out, killed = sys.argv[1:]
course = Course(pacing=Linear(start=8, end=64, duration=12), rows=10, budget=9_000, reuse_after=3,
                warmup_steps=4, seed=3)
dataset = LengthenDataset(store, course)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=64))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
callback = LengthenCallback(dataset, Path(out) / "run")
trainer = Trainer(
    model,
    TrainingArguments(
        out, per_device_train_batch_size=1, gradient_accumulation_steps=4, num_train_epochs=1,
        train_sampling_strategy="sequential", remove_unused_columns=False, logging_steps=1,
        eval_strategy="steps", eval_steps=5, per_device_eval_batch_size=3, save_steps=8,
        use_cpu=True, report_to=[], disable_tqdm=True, dataloader_pin_memory=False),
    train_dataset=dataset,
    eval_dataset=dataset.validation(512),
    callbacks=[callback],
    optimizers=(optimizer, dataset.rates(optimizer)),
)

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == int(killed):
            os.kill(os.getpid(), signal.SIGKILL)

trainer.add_callback(Killer())
trainer.train(resume_from_checkpoint=any(Path(out).glob("checkpoint-*")))
left = Path(f"left-{os.environ.get('RANK', 0)}")
left.mkdir()
(left / "state.json").write_text(json.dumps(callback.state()))
moments = {f"{n}.{k}": v for n, p in model.named_parameters()
           for k, v in optimizer.state[p].items()}
weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
save_file({**weights, **moments}, left / "final.safetensors")
"""

# What reads otherwise in the new words, in either loop; where more changes, a text of its own.
NEW_CODE = {
    "lengthen.corpus.store": "lengthen.data.store",
    "lengthen.pacing": "lengthen.core.pacing",
    "lengthen.plug": "lengthen.integrations",
    "world=3": "world_size=3",
    **{"Course": "DataPlan", "Feed": "BatchStream", ".rates(": ".lr_scheduler("},
    **{"floor=": "min_learning_rate=", "passes=": "gradient_accumulation_steps="},
}


def in_new_code(text: str) -> str:
    """Return a loop in the new words."""
    for old, new in NEW_CODE.items():
        text = text.replace(old, new)
    return text


NEW_PLAIN = in_new_code(OLD_PLAIN)
NEW_TRAINER = in_new_code(OLD_TRAINER)

# ---------------------------------------------------------------- the cases, in old words
Settings = Mapping[str, Any]  # dotted name -> value


@dataclass(frozen=True)
class Command:
    """One process, or as many ranks of it; `driver` instead of the command line's own."""

    words: str
    settings: Settings = field(default_factory=dict)
    ranks: int = 1
    fault: str = ""
    code: int = 0  # its exit code
    driver: str = ""  # plain or trainer
    printed: str = ""  # the file in which what it prints is kept, and compared
    writes: tuple[str, Mapping[str, Settings]] | None = None  # before: a file, its sections


@dataclass(frozen=True)
class Case:
    """Commands one after the other in a directory of their own."""

    name: str
    commands: tuple[Command, ...]


MODEL = {"model.layers": 2, "model.width": 32, "model.heads": 2, "model.length": 64}
SMALL: Settings = {
    **MODEL,
    **{"batch.rows": 8, "batch.micro_tokens": 256, "batch.reuse_after": 3},
    **{"optimizer.learning_rate": 0.01, "optimizer.min_learning_rate": 0.001},
    **{"optimizer.warmup_steps": 4, "optimizer.weight_decay": 0.1, "optimizer.clip": 1.0},
    **{"budget.tokens": 14_000, "saving.every_steps": 10, "saving.keep": 2, "run.seed": 7},
    **{"evaluation.every_steps": 6, "evaluation.tokens": 512, "evaluation.probe_every_steps": 5},
    **{"run.device": "cpu", "run.precision": "fp32", "run.compile": False},
}
LINEAR = {"pacing.kind": "linear", "pacing.start": 8, "pacing.duration": 16}
LONG = {**LINEAR, "pacing.start": 24, "pacing.duration": 60}  # in which rows are joined
ROOT = {**LINEAR, "pacing.kind": "root", "pacing.degree": 3}
STAGED = {"pacing.kind": "staged", "pacing.values": [8, 24, 64], "pacing.boundaries": [7, 15]}
ADAPTIVE = {
    **{"pacing.kind": "adaptive", "pacing.start": 8, "pacing.every": 2, "pacing.patience": 2},
    "pacing.max_hold": 5,
}
CONSTANT = {"pacing.kind": "constant"}
ROWS = {**LINEAR, "pacing.of": "rows", "pacing.start": 2, "pacing.end": 8, "pacing.multiple": 1}
FSDP = {"run.sharded": True, "run.recompute": True, "model.dropout": 0.1}
MAIN, TINY = "../store/main", "../store/tiny"  # stores; the case `store` prepares both
RECIPE = "laptop-2min"


def trained(
    *settings: Settings, without: Sequence[str] = (), store: str = MAIN, **options: Any
) -> Command:
    """Return the training of a small model on a store; later settings win."""
    every = {name: value for name, value in SMALL.items() if name not in without}
    for some in settings:
        every |= some
    return Command(f"train {RECIPE} --data {store} --out run --quiet", every, **options)


def one(name: str, *settings: Settings, **options: Any) -> Case:
    """Return a case of one training."""
    return Case(name, (trained(*settings, **options),))


COMPARISON: dict[str, Settings] = {
    "": {
        **{"recipe": RECIPE, "baseline": "baseline", "seeds": [0, 1, 2], "data.path": MAIN},
        **{name: value for name, value in SMALL.items() if name != "run.seed"},
        **{"budget.tokens": 8000, "saving.every_steps": 0},
    },
    "variants.baseline": CONSTANT,
    "variants.slw": {**LINEAR, "pacing.duration": 8},
}
TUNED: Settings = {
    **SMALL,
    **LINEAR,
    **{"batch.rows": 4, "optimizer.weight_decay": 0.0, "budget.tokens": 250_000},
}
ALONE = "--jobs 1 --threads 1 --quiet"
PREPARED = "--valid 0.1 --workers 1"
KILLED = -signal.SIGKILL

CASES = (
    Case(
        "store",
        (
            Command(f"prepare ../main.jsonl --out main --tokenizer bytes {PREPARED}"),
            Command(f"prepare ../tiny.txt --out tiny --tokenizer train:300 {PREPARED}"),
        ),
    ),
    one("linear", LINEAR),
    one("root", ROOT, {"evaluation.every_tokens": 2000}, without=("evaluation.every_steps",)),
    one("staged", STAGED, {"optimizer.decay_positions": True}),
    one("adaptive", ADAPTIVE),
    one("constant", CONSTANT, {"run.precision": "fp64"}),
    one("rows", ROWS),
    one("hold", LINEAR, {"batch.hold": "tokens"}),
    one("drop", LINEAR, {"batch.leftovers": "drop"}),
    one("dropout", LINEAR, {"model.dropout": 0.1}),
    one("bf16", LINEAR, {"run.precision": "bf16"}),
    Case(
        "epochs",  # over their borders, with a vocabulary that was trained; the budget then grows
        (
            trained(LONG, {"budget.tokens": 8_000}, store=TINY),
            Command("resume run --quiet", {"budget.passes": 4.25}),
        ),
    ),
    one("ddp", LINEAR, {"batch.rows": 7}, ranks=2),
    one("fsdp", LINEAR, FSDP, ranks=2),
    Case(
        "killed",
        (
            trained(LINEAR, fault="step:15:kill", code=KILLED),
            Command("resume run --quiet", {"evaluation.every_steps": 4}),
        ),
    ),
    one("not-finite", LINEAR, {"run.on_nonfinite": "skip"}, fault="step:9-10:nan"),
    one("no-memory", LINEAR, fault="step:9:oom"),
    Case("plain", (Command(f"{MAIN} run", driver="plain"),)),
    Case(
        "trainer",
        (
            Command(f"{MAIN} trainer 13", driver="trainer", code=KILLED),
            Command(f"{MAIN} trainer 0", driver="trainer"),
        ),
    ),
    Case("trainer-ddp", (Command(f"{MAIN} trainer 0", driver="trainer", ranks=2),)),
    Case(
        "comparison",
        (Command(f"compare small.toml --out out {ALONE}", writes=("small.toml", COMPARISON)),),
    ),
    Case(
        "tuning",
        (
            Command(
                f"tune {RECIPE} --data {MAIN} --out out --starts 8 32 --judge-tokens 512 {ALONE}",
                TUNED,
            ),
        ),
    ),
    Case(
        "plan",
        (
            Command(
                f"plan {RECIPE} {RECIPE}-baseline --data {MAIN} --flops 1T --ranks 2,4",
                MODEL,
                printed="plan.txt",
            ),
            Command("plan gpt2-117m gpt3-1.3b --flops 100T --ranks 8,64,512", printed="large.txt"),
        ),
    ),
)


# ---------------------------------------------------------------- running
class FailedError(Exception):
    """A command that did not end as it had to."""


class DiffersError(Exception):
    """The first difference of a case."""


@dataclass(frozen=True)
class Side:
    """One of the two trees; while it works its outcome lies in `work`, under one path for both."""

    name: str
    tree: Path
    work: Path

    @property
    def is_old(self) -> bool:
        """Whether this is the base commit."""
        return self.name == "old"

    @property
    def outcome(self) -> Path:
        """Where the outcome lies while the other side works."""
        return self.work.with_name(self.name)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Put the outcome where both sides work."""
        self.outcome.rename(self.work)
        try:
            yield
        finally:
            self.work.rename(self.outcome)

    def prepare(self) -> None:
        """Write the texts and the loops of others, and check that the tree is what is imported."""
        self.outcome.mkdir()
        write_texts(self.outcome)
        drivers = (OLD_PLAIN, OLD_TRAINER) if self.is_old else (NEW_PLAIN, NEW_TRAINER)
        for name, text in zip(("plain", "trainer"), drivers, strict=True):
            (self.outcome / f"{name}.py").write_text(text, encoding="utf-8")
        ask = [sys.executable, "-c", "import lengthen; print(lengthen.__file__)"]
        there = self._run(ask, self.outcome).stdout.strip()
        if not Path(there).is_relative_to(self.tree):
            raise FailedError(f"{self.name}: imports {there}, not {self.tree}")

    def carry_out(self, case: Case) -> None:
        """Run the commands of a case; raises FailedError."""
        folder = self.work / case.name
        folder.mkdir()
        for command in case.commands:
            if command.writes:
                name, sections = command.writes
                (folder / name).write_text(self._toml(sections), encoding="utf-8")
            fault = command.fault if self.is_old else FAULTS.get(command.fault, command.fault)
            done = self._run(self._argv(command), folder, fault)
            if done.returncode != command.code:
                raise FailedError(f"{self.name}: exit code {done.returncode}: {why(done.stderr)}")
            if command.printed:
                (folder / command.printed).write_text(done.stdout, encoding="utf-8")

    def _run(
        self, argv: Sequence[str], folder: Path, fault: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        hidden = ("LENGTHEN_FAULT", "RANK", "WORLD_SIZE", "PYTHONSTARTUP")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env |= {"PYTHONPATH": str(self.tree), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        if fault:
            env["LENGTHEN_FAULT"] = fault
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600}
        return subprocess.run(argv, cwd=folder, env=env, check=False, **options)

    def _argv(self, command: Command) -> list[str]:
        argv = [sys.executable]
        if command.ranks > 1:
            argv += ["-m", "torch.distributed.run", "--standalone"]
            argv += ["--nproc-per-node", str(command.ranks)]
        if command.driver:
            return [*argv, f"../{command.driver}.py", *command.words.split()]
        argv += ["-m", "lengthen"]
        argv += [word if self.is_old else WORDS.get(word, word) for word in command.words.split()]
        for name, value in self._settings(command.settings):
            argv += [f"--{name}", json.dumps(value)]
        return argv

    def _toml(self, sections: Mapping[str, Settings]) -> str:
        lines = []
        for section, settings in sections.items():
            lines += [f"[{section}]"] if section else []
            lines += [f"{name} = {json.dumps(one)}" for name, one in self._settings(settings)]
        return "\n".join(lines) + "\n"

    def _settings(self, settings: Settings) -> Iterator[tuple[str, Any]]:
        for name, value in settings.items():
            new = name if self.is_old else in_new_words(name, SETTINGS)
            if new is not None:
                yield new, value if self.is_old else new_value(name, value)


def why(errors: str) -> str:
    """Return the lines that say why a command ended, of all that it wrote to its standard error."""
    lines = errors.strip().splitlines()
    telling = [line for line in lines if re.search(r"^lengthen: |\w(Error|Exception): ", line)]
    return " | ".join((telling or lines)[-3:])


def write_texts(folder: Path) -> None:
    """Write 60 kB of documents and 7 kB of text, the same ones everywhere."""
    source = random.Random(1)
    words = ["".join(source.choices("aeinorst", k=source.randint(1, 7))) for _ in range(300)]
    weights = [1 / (rank + 1) for rank in range(len(words))]

    def sentence() -> str:
        return " ".join(source.choices(words, weights, k=source.randint(4, 14))) + "."

    documents = [" ".join(sentence() for _ in range(source.randint(1, 9))) for _ in range(320)]
    lines = [json.dumps({"text": text}) + "\n" for text in documents]
    (folder / "main.jsonl").write_text("".join(lines), encoding="utf-8")
    tiny = "".join(sentence() + "\n" for _ in range(300))
    (folder / "tiny.txt").write_text(tiny, encoding="utf-8")


@contextmanager
def checked_out(commit: str, tree: Path) -> Iterator[None]:
    """Check a commit out into a second work tree, which goes at the end whatever happens."""
    git = ["git", "-C", str(HERE), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
        yield
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


# ---------------------------------------------------------------- comparing
@dataclass
class Tally:
    """What of a case was compared."""

    runs: int = 0
    lines: int = 0
    tensors: int = 0
    files: int = 0
    reworded: int = 0  # texts of which only the numbers are equal


def in_new_words(name: str, names: Names) -> str | None:
    """Return a dotted name in new words; None where it is no longer written."""
    if not names:
        return name
    gone = False

    def new(match: "re.Match[str]") -> str:
        nonlocal gone
        word = names[match.group()]
        gone |= word is None
        return word or ""

    longest = sorted(names, key=len, reverse=True)
    whole = rf"(?<![^.])(?:{'|'.join(map(re.escape, longest))})(?![^.])"
    renamed = re.sub(whole, new, name)
    return None if gone else renamed


def new_value(name: str, value: Any) -> Any:
    """Return an old value in new words."""
    for tail, values in VALUES.items():
        if ends_in(name, {tail}) and isinstance(value, str | bool | int):
            return values.get(value, value)
    return value


def ends_in(name: str, tails: Iterable[str]) -> bool:
    """Tell whether a dotted name ends in one of these."""
    return any(f".{name}".endswith(f".{tail}") for tail in tails)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested JSON by dotted name."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    if isinstance(value, dict | list) and value:
        for key, one in inner:
            yield from flat(one, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def same_values(
    where: str, old: Any, new: Any, names: Names, tally: Tally, free: Iterable[str] = ()
) -> None:
    """Raise DiffersError at the first value that is not the same; `free` are names left out."""
    ours = dict(flat(new))
    left_out = CLOCK | set(free)
    expected: dict[str, Any] = {}
    for name, value in flat(old):
        renamed = in_new_words(name, names)
        if renamed is not None and not is_left_out(name, left_out):
            expected[renamed] = new_value(name, value)
    for name, value in expected.items():
        if name not in ours:
            raise DiffersError(f"{where} {name}: {value!r} -> absent")
        same_value(f"{where} {name}", name, value, ours[name], tally)
    for name, value in ours.items():
        known = name in expected or is_left_out(name, left_out) or ends_in(name, ADDED)
        if not known:
            raise DiffersError(f"{where} {name}: absent -> {value!r}")


def is_left_out(name: str, left_out: set[str]) -> bool:
    """Tell whether a dotted name ends in one of these, or lies below one."""
    parts = name.split(".")
    return any(ends_in(".".join(parts[: n + 1]), left_out) for n in range(len(parts)))


def same_value(where: str, name: str, old: Any, new: Any, tally: Tally) -> None:
    """Raise DiffersError where two values are not the same, type included."""
    if json.dumps(old) == json.dumps(new):
        return
    if isinstance(old, str) and isinstance(new, str):
        one, other = (re.sub(DIGEST, r"\1", text) for text in (old, new))
        if one == other:
            return
        if PROSE & set(name.split(".")):
            same_text(where, old, new, tally)
            return
    raise DiffersError(f"{where}: {old!r} -> {new!r}")


def same_text(where: str, old: str, new: str, tally: Tally) -> None:
    """Raise DiffersError where two texts for people have not the same numbers."""
    for pattern, word in TEXTS.items():
        old = re.sub(pattern, word, old)
    old, new = (re.sub(CLOCK_TEXT, "", text) for text in (old, new))
    if old == new:
        return
    numbers = [re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", text) for text in (old, new)]
    if numbers[0] != numbers[1]:
        raise DiffersError(f"{where}: {old!r} -> {new!r}")
    tally.reworded += 1


def same_lines(where: str, old: Path, new: Path, tally: Tally, *, cut: bool = False) -> None:
    """Compare two files of records line by line; `cut` says that a kill has ended one earlier."""
    one, other = lines_of(old), lines_of(new)
    for number, (a, b) in enumerate(zip(one, other, strict=False), start=1):
        same_values(f"{where}:{number}", json.loads(a), json.loads(b), FIELDS, tally)
        tally.lines += 1
    if len(one) != len(other) and not cut:
        number = min(len(one), len(other))
        first = (one + other[number:])[number]
        raise DiffersError(f"{where}: {len(one)} -> {len(other)} lines, first too many: {first}")


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file; none where it is not there."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def same_print(where: str, old: Path, new: Path, tally: Tally) -> None:
    """Compare what was printed, line by line: words as far as they are the same, numbers always."""
    pairs = []
    for path in (old, new):
        stripped = (" ".join(re.findall(r"[\w.,%+-]+", line)) for line in lines_of(path))
        pairs.append([line for line in stripped if re.search(r"\w", line)])
    one, other = pairs
    if len(one) != len(other):  # a table may have become wider: then all of it at once
        one, other = [" ".join(one)], [" ".join(other)]
    for number, (a, b) in enumerate(zip(one, other, strict=True), start=1):
        same_text(f"{where}, text {number}", a, b, tally)
        tally.lines += 1


def tensors_of(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Return the tensors of a safetensors file: type, shape and bytes, as they lie there."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (fact["dtype"], fact["shape"], data[start + first : start + last])
        for name, fact in header.items()
        for first, last in [fact["data_offsets"]]
    }


def same_tensors(where: str, old: Path, new: Path, tally: Tally) -> None:
    """Compare two files of tensors bit by bit."""
    one = {in_new_path(name, TENSORS): fact for name, fact in tensors_of(old).items()}
    other = tensors_of(new)
    for name in [*one, *other]:
        if name not in one or name not in other:
            raise DiffersError(f"{where} {name}: only {'old' if name in one else 'new'}")
    for name, (kind, shape, data) in one.items():
        if (kind, shape) != other[name][:2]:
            raise DiffersError(f"{where} {name}: {kind} {shape} -> {other[name][:2]}")
        if data != other[name][2]:
            raise DiffersError(f"{where} {name}{first_unequal(kind, data, other[name][2])}")
        tally.tensors += 1


def first_unequal(kind: str, old: bytes, new: bytes) -> str:
    """Say where two tensors differ first."""
    types = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    one, other = (np.frombuffer(data, types.get(kind, np.uint8)) for data in (old, new))
    place = int(np.flatnonzero(one.view(np.uint8) != other.view(np.uint8))[0]) // one.itemsize
    differ = int((one != other).sum())
    return f"[{place}]: {one[place]!r} -> {other[place]!r}, {differ} of {one.size} differ"


def same_json(where: str, old: Path, new: Path, tally: Tally, free: Iterable[str]) -> None:
    """Compare two JSON files; columns of tables that a clock decides are left out."""
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    for content in (one, other):
        tables = content.get("tables", ()) if isinstance(content, dict) else ()
        for table in tables:
            kept = [n for n, name in enumerate(table["columns"]) if CLOCK_COLUMN not in name]
            table["columns"] = [table["columns"][n] for n in kept]
            table["rows"] = [[row[n] for n in kept] for row in table["rows"]]
    same_values(where, one, other, {**SETTINGS, **STATE}, tally, free)


def same_toml(where: str, old: Path, new: Path, tally: Tally, *, free: bool) -> None:
    """Compare two files of settings, and unless they are `free` their comments."""
    one, other = (path.read_text(encoding="utf-8") for path in (old, new))
    same_values(where, tomllib.loads(one), tomllib.loads(other), SETTINGS, tally)
    if free:
        return
    comments = ["\n".join(re.findall(r"^#.*", text, re.MULTILINE)) for text in (one, other)]
    same_text(f"{where} comment", comments[0], comments[1], tally)


def in_new_path(path: str, patterns: Mapping[str, str]) -> str:
    """Return a path or a tensor's name in new words."""
    for pattern, word in patterns.items():
        path = re.sub(pattern, word, path)
    return path


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files to compare by their path, trials without their digest; records first."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not re.fullmatch(rf"(?:.*/)?(?:{SKIPPED})", name):
            found[re.sub(DIGEST, r"\1", name)] = path
    return dict(sorted(found.items(), key=lambda item: (item[1].suffix != ".jsonl", item[0])))


def cut_trials(old: Path, new: Path) -> tuple[str, ...]:
    """Return the trials that ended at different lines: one that is not calm is killed when seen."""
    if not (old / "out/tune.json").is_file():
        return ()
    trials = json.loads((old / "out/tune.json").read_text(encoding="utf-8"))["trials"]
    names = [re.sub(DIGEST, r"\1", trial["run"]) for trial in trials if trial["loss"] is None]
    folders = [f"out/trials/{name}/" for name in names]
    sides = [files_of(side) for side in (old, new)]
    there = [f for f in folders if all(f"{f}metrics.jsonl" in files for files in sides)]
    counts = {f: [len(lines_of(files[f"{f}metrics.jsonl"])) for files in sides] for f in there}
    return tuple(folder for folder, (one, other) in counts.items() if one != other)


def same_case(old: Path, new: Path, tally: Tally) -> None:
    """Compare what a case has left on both sides; raises DiffersError at the first difference."""
    one = {in_new_path(name, FILES): path for name, path in files_of(old).items()}
    other = files_of(new)
    cut = cut_trials(old, new)
    for name in {**one, **other}:  # records first: what differs there explains the rest
        if name not in one or name not in other:
            if name.startswith(cut or "\n"):
                continue
            raise DiffersError(f"{name}: only {'old' if name in one else 'new'}")
        same_files(name, one[name], other[name], tally, cut)
        tally.files += 1
        tally.runs += name.endswith("metrics.jsonl")
    if not tally.files:
        raise DiffersError("nothing was left to compare")


def same_files(name: str, old: Path, new: Path, tally: Tally, cut: tuple[str, ...]) -> None:
    """Compare two files, each kind in its own way."""
    if old.suffix == ".jsonl":
        same_lines(name, old, new, tally, cut=name.startswith(cut or "\n"))
    elif old.suffix == ".safetensors":
        same_tensors(name, old, new, tally)
    elif old.suffix == ".toml":
        same_toml(name, old, new, tally, free=bool(cut))
    elif old.suffix == ".json":
        # How far a killed trial came is chance, and then so is what the search has cost.
        cost = ("steps", "tokens", "flops", "cost", "share", "verdicts")
        same_json(name, old, new, tally, cost if cut else ())
    elif old.suffix == ".txt":
        same_print(name, old, new, tally)
    elif old.read_bytes() != new.read_bytes():
        raise DiffersError(f"{name}: other bytes")


# ---------------------------------------------------------------- the command
def chosen(names: Sequence[str]) -> list[Case]:
    """Return the cases asked for, and the stores ahead of them, which all others read."""
    known = [case.name for case in CASES]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise SystemExit(f"referee: no case {name!r}; there are: {', '.join(close or known)}")
    return [case for case in CASES if not names or case.name in ("store", *names)]


def judged(case: Case, sides: Sequence[Side]) -> bool:
    """Carry a case out on both sides, print its line, and return whether all is equal."""
    began, tally, said = time.monotonic(), Tally(), "equal"
    try:
        for side in sides:
            with side.working():
                side.carry_out(case)
        folders = [side.outcome / case.name for side in sides]
        same_case(folders[0], folders[1], tally)
        if tally.reworded:
            said += f" ({tally.reworded} texts in their numbers)"
    except (DiffersError, FailedError) as error:
        said = f"DIFFERENT  {error}"
    facts = f"{tally.runs:2} runs  {tally.lines:4} lines  {tally.tensors:4} tensors"
    seconds = time.monotonic() - began
    print(f"{case.name:12}{facts}  {tally.files:3} files  {seconds:5.1f} s  {said}", flush=True)
    return said.startswith("equal")


def main() -> int:
    """Judge every case; return 1 if any differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default=BASE, help=f"the commit to compare with ({BASE})")
    parser.add_argument("--only", action="append", default=[], help="this case; may be repeated")
    parser.add_argument("--keep", type=Path, help="a new directory, where the runs stay")
    options = parser.parse_args()
    cases = chosen(options.only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="referee-"))
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise SystemExit(f"referee: --keep: {root} must be new or empty")
    began = time.monotonic()
    try:
        with checked_out(options.base, root / "base"):
            work = root / "work"
            sides = [Side("old", root / "base", work), Side("new", HERE, work)]
            for side in sides:
                side.prepare()
            different = sum(not judged(case, sides) for case in cases)
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    verdict = f"{different} different" if different else "all equal"
    print(f"{len(cases)} cases, {verdict}, in {time.monotonic() - began:.0f} s", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
