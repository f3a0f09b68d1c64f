"""Every way out that the package prints is taken by a test; a new one fails here until it is."""

import ast

import pytest

from tests.ways_out import WAY_OUT, _texts_of, taken, ways_out

# What looks like a way out, and says what there is.
NONE = {
    "\nAny setting can follow as --table.setting VALUE, under the name it has in TOML:\n"
    "  --pacing.start 8 --batch.rows 64 --budget.tokens 20M --run.precision bf16\n",
    "token store, as `--data` says",
    "ways to split",
    "set SHA-256",
    "set {}: {}; {}",
    "set {}",
    "set {}: {}",
    "set {}: not UTF-8 ({})",
    "words: of the text before clean-up, split at single spaces, the ends stripped",
    "lengthen demo",
    "lengthen tune",
    ", {} of them to start, save and watch processes",
    "start {} {}",
    "start {}, T {}",
    " --aggressive: {} x the rate, {} x the rows.",
    "train anew",
    "a recipe or file, or what --lay-out of compare wrote",
    *(f"#SBATCH --{name}" for name in ("job-name=", "nodes=", "gpus-per-node=", "time=")),
    *(f"#SBATCH --{name}" for name in ("cpus-per-task=", "exclusive", "gpus-per-node=0\n")),
    "#SBATCH --exclusive\n#SBATCH --array",
    "#SBATCH --array",
    "\n#SBATCH --array=0-{}",
}


def test_every_way_out_is_taken_by_a_test() -> None:
    found, tried = ways_out(), taken()
    untried = {
        text: place for text, place in found.items() if text not in tried | dict.fromkeys(NONE)
    }
    assert not untried, "bring it about, do what it says, and name it with tests.ways_out.takes"


def test_no_test_names_a_way_out_that_is_not_printed_any_more() -> None:
    found = ways_out()
    assert not {text: test for text, test in taken().items() if text not in found}
    assert not NONE - found.keys()
    assert NONE.isdisjoint(taken())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            'raise SettingError("a", "is wrong", 1, "set \\"cpu\\" or \\"auto\\"")',
            'set "cpu" or "auto"',
        ),
        ('hint = f"`lengthen resume {root}` continues"', "`lengthen resume {}` continues"),
        (
            'note("it is full; free some space " "and begin again")',
            "it is full; free some space and begin again",
        ),
        ('say("needs pandas: pip install pandas")', "needs pandas: pip install pandas"),
    ],
)
def test_the_scan_finds_what_a_message_tells_its_reader_to_do(line: str, text: str) -> None:
    assert [one for one in _texts_of(ast.parse(line)) if WAY_OUT.search(one)] == [text]
