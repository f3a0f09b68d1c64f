"""Which runs' losses are of one text: those stand side by side, and no others.

A validation loss is of the part of the validation text that `evaluation.tokens` asks for, in
sequences of the full length, and a probe's of the first few of those.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from lengthen.reporting.differences import MISSING, cells
from lengthen.reporting.gather import NamedRun
from lengthen.run.records import EvalRecord, ProbeRecord

LENGTH, PART = "model.length", "evaluation.tokens"
READ = "tokens read"  # by each evaluation, or each probe
SETTINGS = {"eval": (LENGTH, PART), "probe": (LENGTH,)}  # by kind of record
HASHES = ("tokenizer", "valid")  # of environment.json
CADENCE = ("evaluation.every_steps", "evaluation.every_tokens")
SHA256, HASH = 64, 8  # characters of one, and of what is shown of it
SEVERAL = " and "  # between the numbers of a run whose evaluations were not all alike

Facts = Mapping[str, str]  # of what text losses are; what is not recorded is absent


def facts(run: NamedRun, kind: str) -> Facts:
    """Return of what text a run's evaluations ("eval") or probes are; nothing without any."""
    log = run.metrics
    records: Sequence[EvalRecord | ProbeRecord]
    records = log.evaluations if kind == "eval" else log.probes
    if not records:
        return {}
    settings = cells(run.config)
    found = {name: settings[name] for name in SETTINGS[kind] if name in settings}
    found |= {name: str(run.environment[name]) for name in HASHES if run.environment.get(name)}
    return found | ({READ: read} if (read := _read(records)) else {})


def _read(records: Sequence[EvalRecord | ProbeRecord]) -> str:
    sizes = {record.side_tokens for record in records}
    return SEVERAL.join(f"{size:,.0f}" for size in sorted(size for size in sizes if size))


def differences(one: Facts, other: Facts) -> list[str]:
    """Return the names of what is known of both and not the same.

    Where both read equally much, all of it each time, what they asked for is no difference: a
    validation part can be too small for either.
    """
    names = [name for name in one if name in other and one[name] != other[name]]
    if READ not in one or READ not in other or READ in names:
        return names
    return [*names, READ] if SEVERAL in one[READ] else [name for name in names if name != PART]


def groups(runs: Sequence[NamedRun], kind: str) -> list[tuple[Facts, list[NamedRun]]]:
    """Return the runs whose evaluations or probes are of one text, with what is known of it.

    A run of which something is not recorded joins the first group that the rest allows.
    """
    found: list[tuple[dict[str, str], list[NamedRun]]] = []
    for run in runs:
        own = facts(run, kind)
        for known, members in found:
            if not differences(known, own):
                known.update(own)
                members.append(run)
                break
        else:
            found.append((dict(own), [run]))
    return [(known, members) for known, members in found]


def named(runs: Sequence[NamedRun], kind: str) -> list[tuple[str, list[NamedRun]]]:
    """Return the groups, each with the words in which it differs from others; "" for a single one.

    The tokens read are named where nothing else is different: they follow from the rest.
    """
    apart = groups(runs, kind)
    pairs = combinations((known for known, _ in apart), 2)
    names = dict.fromkeys(name for pair in pairs for name in differences(*pair) if name != READ)
    for told in (list(names), [*names, READ]):
        words = [_words(known, told) for known, _ in apart]
        if len(set(words)) == len(apart):
            break
    return [(text, members) for text, (_, members) in zip(words, apart, strict=True)]


def _words(known: Facts, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_short(known[name])}" for name in names if name in known)


def notes(runs: Sequence[NamedRun]) -> list[str]:
    """Return a note for each group of runs whose validation losses are of other text.

    Where their full lengths differ, `differences.full_lengths` says so.
    """
    found = []
    for run in runs:
        read = facts(run, "eval").get(READ, "")
        if SEVERAL in read:
            what = f"its evaluations read {read} tokens"
            found.append(f"{run.name}: {what}, so its own losses are not of one text")
    (known, first), *others = groups(runs, "eval") or [({}, [])]
    for other, members in others:
        if LENGTH not in differences(known, other):
            names = f"{members[0].name} and {first[0].name}"
            where = difference(other, known)
            found.append(f"{names}: validation losses of different text, shown apart ({where})")
    return [*found, *_unchecked(runs)]


def _unchecked(runs: Sequence[NamedRun]) -> Iterator[str]:
    evaluated = [run for run in runs if run.metrics.evaluations]
    known = {run.name: facts(run, "eval").keys() for run in evaluated}
    missing = [name for name, names in known.items() if names.isdisjoint((READ, PART))]
    if missing and len(evaluated) > 1:
        who = missing[0] if len(missing) == 1 else f"{len(missing)} runs, as {missing[0]}"
        yield f"not checked that evaluations read the same part of the text: no record of {who}"


def difference(one: Facts, other: Facts) -> str:
    """Return in words where two differ; the tokens read follow from the rest."""
    names = differences(one, other)
    told = [name for name in names if name != READ] or names
    return ", ".join(f"{n} {_short(one[n])} against {_short(other[n])}" for n in told)


def _short(value: str) -> str:
    return value[:HASH] if len(value) == SHA256 else value


def cadence(runs: Sequence[NamedRun]) -> str:
    """Return a note where runs evaluate differently often: who looks more often finds more."""
    every = {run.name: cells(run.config) for run in runs}
    known = {name: own for name, own in every.items() if not own.keys().isdisjoint(CADENCE)}
    for setting in CADENCE:
        found = {own.get(setting, MISSING): name for name, own in known.items()}
        if len(found) > 1:
            (value, run), (other, second) = list(found.items())[:2]
            where = f"{setting} is {value} in {run} and {other} in {second}"
            return f"{where}: whoever looks more often gets there earlier. "
    return ""
