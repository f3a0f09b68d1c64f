"""What tests share: where real text is, a tiny store, a tiny configuration."""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from lengthen.config.load import build, merge
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.data.prepare import prepare
from lengthen.distributed.context import DistributedContext
from lengthen.training.trainer import Trainer
from lengthen.util import faults
from lengthen.util.errors import LengthenError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHARED = Path(__file__).parents[1] / "../shared/data"

hypothesis_settings.register_profile("tests", deadline=None, derandomize=True)
# For `make fuzz`: other inputs each time, and a machine may be busy.
hypothesis_settings.register_profile(
    "fuzz", max_examples=3500, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("tests")
torch.set_num_threads(1)
# A shell starts what runs in its background deaf to Ctrl-C, and so would be the processes that we
# start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")

Configure = Callable[..., Config]
AskFor = Callable[[str], None]


@pytest.fixture
def hears_hangups() -> Iterator[None]:
    """Start processes that a hang-up reaches, though `nohup` may have started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A real browser; what asks for it is skipped on a machine without one."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    # Only here: a machine that runs the other tests may lack the package.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def text() -> str:
    """Twelve hundred lines, none like another."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "while",
        "seven",
        "wizards",
        "box",
    ]
    lines = (" ".join(words[(i * k) % len(words)] for k in range(1, 9)) for i in range(1200))
    return "\n".join(f"{number} {line}" for number, line in enumerate(lines)) + "\n"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    """A store of some 60,000 byte tokens, 6,000 of them for validation."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "text.txt").write_text(text, encoding="utf-8")
    source, out = [str(folder / "text.txt")], folder / "tokens"
    prepare(source, out, tokenizer="bytes", valid=0.1, quiet=True)
    return out


@pytest.fixture(scope="session")
def configured(store: Path) -> Configure:
    """Give a tiny configuration on the tiny store, with any tables changed."""

    def tiny(**tables: dict[str, Any]) -> Config:
        base: dict[str, Any] = {
            "data": {"path": str(store)},
            "model": {"layers": 1, "width": 16, "heads": 2, "length": 64},
            "pacing": {"kind": "linear", "start": 8, "duration": 12},
            "batch": {"rows": 8, "micro_tokens": 256, "reuse_after": 3},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 4, "betas": [0.9, 0.999]},
            "budget": {"tokens": 10_000},
            "evaluation": {"every_steps": 5, "tokens": 512, "probe_every_steps": 7},
            "saving": {"every_steps": 1, "keep": 1000},
            "run": {"precision": "fp32", "compile": "off"},  # whatever machine the tests run on
        }
        return build(merge(base, tables)[0])

    return tiny


@pytest.fixture
def ask_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[AskFor]:
    """Give what asks for a fault in this process, counted from now; it ends with the test."""

    def ask(text: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, text)
        faults.asked.cache_clear()

    yield ask
    faults.asked.cache_clear()


def in_a_child(work: Callable[[], object]) -> int:
    """Do the work in a process of its own; return its exit code, or minus what signal ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except LengthenError as error:
            print(error, file=sys.stderr)
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trainer_of(config: Config) -> Trainer:
    """A trainer of `config`, whose pass size is a number, on its store and in this process."""
    store = open_store(config)
    config = with_store(config, store)
    size = config.batch.micro_tokens
    assert size != "auto"
    return Trainer(
        config, store, DistributedContext(torch.device("cpu"), config.run.precision), size
    )
