"""The device that `run.device` means: which there are, what each can do, and wrong settings."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lengthen.config.schema import Run
from lengthen.distributed import device as devices
from lengthen.distributed.device import cards, check_supports, described, device_here, device_of
from lengthen.distributed.memory import auto_micro_tokens, memory_limit, memory_of
from lengthen.experiments import runner as processes
from lengthen.experiments.runner import Machine, machine_for
from lengthen.run.directory import RunPaths
from lengthen.training.start import train
from lengthen.util.errors import SettingError
from tests.conftest import Configure

Machines = Callable[[int], list[torch.device]]


@pytest.fixture
def with_cards(monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Give what makes a machine of so many GPUs; it returns those that were made current."""

    def make(count: int) -> list[torch.device]:
        current: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
        return current

    return make


@pytest.mark.parametrize(
    ("count", "setting", "expected"),
    [
        (0, "auto", "cpu"),
        (3, "auto", "cuda:0"),
        (3, "cpu", "cpu"),
        (3, "cuda", "cuda:0"),
        (3, "cuda:2", "cuda:2"),
    ],
)
def test_a_setting_means_one_device(
    with_cards: Machines, count: int, setting: str, expected: str
) -> None:
    current = with_cards(count)
    device = device_of(setting)
    assert str(device) == expected
    assert current == [device] * (device.type == "cuda")


def test_auto_never_takes_an_apple_gpu(
    with_cards: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cards(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of("auto").type == "cpu"
    assert device_of("mps").type == "mps"


@pytest.mark.parametrize(
    ("count", "setting", "message"),
    [
        (0, "cuda", 'run.device: PyTorch finds no GPU here, got \'cuda\'; set "cpu" or "auto"'),
        (0, "cuda:1", "run.device: PyTorch finds no GPU here, got 'cuda:1'"),
        (1, "cuda:7", "PyTorch finds 1 GPU here, got 'cuda:7'; did you mean \"cuda:0\"?"),
        (4, "cuda:4", "PyTorch finds 4 GPUs here, got 'cuda:4'; did you mean \"cuda:3\"?"),
        (4, "mps", 'PyTorch finds no Apple GPU here, got \'mps\'; set "cpu" or "auto"'),
    ],
)
def test_a_device_that_is_not_here_is_said(
    with_cards: Machines,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    setting: str,
    message: str,
) -> None:
    with_cards(count)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingError) as raised:
        device_of(setting)
    assert message in str(raised.value)


def test_a_pytorch_without_cuda_is_said(
    with_cards: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cards(0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(SettingError, match="this PyTorch is built without CUDA"):
        device_of("cuda")


@pytest.mark.parametrize("setting", ["auto", "cuda"])
def test_each_process_takes_the_card_of_its_local_rank(
    with_cards: Machines, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    with_cards(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(device_of(setting)) == "cuda:1"
    with_cards(1)
    with pytest.raises(SettingError, match=r"PyTorch finds 1 GPU here, none for LOCAL_RANK 1"):
        device_of(setting)


def test_several_processes_are_not_put_on_one_device(
    with_cards: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cards(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(SettingError, match=r"one card for several processes.*set \"cuda\""):
        device_of("cuda:0")
    with pytest.raises(SettingError, match="one process alone"):
        device_of("mps")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("gpu", "did you mean 'cuda'?"),
        ("gpu:3", "did you mean 'cuda:3'?"),
        ("cuda:01", "did you mean 'cuda:0'?"),
        ("cuda:", "did you mean 'cuda:0'?"),
        ("xla", "one of auto, cpu, cuda, cuda:0, mps"),
        ("cuda:99999", "did you mean 'cuda:0'?"),
    ],
)
def test_a_word_that_is_no_device_is_refused_with_the_nearest(
    configured: Configure, value: str, hint: str
) -> None:
    with pytest.raises(SettingError) as raised:
        configured(run={"device": value})
    message = str(raised.value)
    assert message.startswith('run.device: must be "auto", "cpu", "cuda", "cuda:N" with the number')
    assert message.endswith(f"got {value!r}; {hint}")


@pytest.mark.parametrize("value", [1, True, ["cuda"]])
def test_a_device_is_text(configured: Configure, value: object) -> None:
    with pytest.raises(SettingError, match=r"run.device: must be text"):
        configured(run={"device": value})


def test_a_run_says_what_auto_took(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if devices.gpus():
        pytest.skip("there is a GPU on this machine")
    train(configured(budget={"tokens": 1_000}), tmp_path)
    assert capsys.readouterr().err.startswith(
        'device cpu (run.device = "auto"), precision fp32, compile off, '
    )
    environment = json.loads(RunPaths(tmp_path).environment.read_bytes())
    assert environment["device"] == "cpu"


def test_a_gpu_is_described_with_its_model(with_cards: Machines) -> None:
    with_cards(2)
    assert described(device_of("cuda:1")) == "cuda:1, Card 1"


def test_free_memory_is_that_of_the_runs_own_card(
    configured: Configure, with_cards: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cards(2)
    tables = {"model": {"vocabulary": 257}, "batch": {"rows": 128, "micro_tokens": "auto"}}
    config = configured(**tables)
    whole, half = 128 * 64, 64 * 64
    free = {0: memory_of(config, half), 1: memory_of(config, whole)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 2**40))
    assert [memory_limit(torch.device("cuda", card)) for card in (0, 1)] == [*free.values()]
    sizes = {
        setting: auto_micro_tokens(configured(**tables, run={"device": setting}))
        for setting in ("auto", "cuda:0", "cuda:1")
    }
    assert sizes == {"auto": half, "cuda:0": half, "cuda:1": whole}


def test_a_plan_for_another_machine_is_made_on_the_nearest_device(with_cards: Machines) -> None:
    with_cards(0)
    assert [device_here(setting).type for setting in ("cuda", "cuda:1", "mps")] == ["cpu"] * 3
    with_cards(2)
    assert str(device_here("cuda:7")) == "cuda:0"


def test_runs_on_one_named_card_share_it_and_others_are_shared_out(
    configured: Configure, with_cards: Machines
) -> None:
    with_cards(3)
    counts = {"cpu": 0, "auto": 3, "cuda": 3, "cuda:2": 1, "mps": 1}
    assert {setting: cards(setting) for setting in counts} == counts
    shared = machine_for([configured(run={"device": "cuda"})] * 8, 8, None, 1)
    assert shared == Machine(jobs=3, threads=1, gpus=3)
    one = machine_for([configured(run={"device": "cuda:2"})] * 8, 8, None, 1)
    assert one == Machine(jobs=1, threads=1, gpus=0)
    # With fewer visible, "cuda:2" would be another card, or none.
    assert "CUDA_VISIBLE_DEVICES" not in processes._environment(one, 0)


def test_what_a_device_lacks_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    apple, card = torch.device("mps"), torch.device("cuda", 0)
    with pytest.raises(SettingError, match=r"run.precision: this GPU has no float64.*set \"fp32\""):
        check_supports(apple, Run(precision="fp64"))
    with pytest.raises(SettingError, match=r"run.compile: is not there for mps"):
        check_supports(apple, Run(compile="on"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(SettingError, match=r"run.precision: this GPU has no bfloat16"):
        check_supports(card, Run(precision="bf16"))
