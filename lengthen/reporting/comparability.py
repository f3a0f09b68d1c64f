"""What runs share and where they differ: settings, environments, and the text of their losses.

Losses of one text stand side by side, and no others. A validation loss is of the part of the
validation text that `evaluation.tokens` asks for, in sequences of the full length, and a probe's of
the first few of those.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from lengthen.analysis.summary import SAME
from lengthen.config.load import flat
from lengthen.reporting.gather import NamedRun
from lengthen.util.tables import Table

SEED = "run.seed"
LENGTH, PART, ACROSS = "model.length", "evaluation.tokens", "data.documents"
READ = "tokens read"  # by each evaluation, or each probe
SETTINGS = {"eval": (LENGTH, PART, ACROSS), "probe": (LENGTH, ACROSS)}  # by kind of record
CADENCE = ("evaluation.every_steps", "evaluation.every_tokens")
SHA256, HASH = 64, 8  # characters of one, and of what is shown of it
SEVERAL = " and "  # between the numbers of a run whose evaluations were not all alike
MISSING = "-"

Facts = Mapping[str, str]  # name -> value as text; what is not recorded is absent


def settings_table(runs: Sequence[NamedRun]) -> Table | None:
    """Return the settings in which runs differ; None where none does, or none is known.

    Runs that differ in their seed alone are one column, under the name of the first.
    """
    columns = {}
    for name, members in alike(runs).items():
        seeds = dict.fromkeys(as_text(run.config).get(SEED, MISSING) for run in members)
        columns[name] = as_text(members[0].config) | {SEED: ", ".join(seeds)}
    differing = _differing(columns)
    return _table("Settings that differ", columns, differing) if differing else None


def alike(runs: Sequence[NamedRun]) -> dict[str, list[NamedRun]]:
    """Return the runs that differ in their seed alone, by the folder that holds them and no other.

    Where there is no such folder, by the name of the first. Runs without a configuration are in no
    group.
    """
    groups: dict[frozenset[tuple[str, str]], list[NamedRun]] = {}
    for run in runs:
        if settings := as_text(run.config):
            groups.setdefault(frozenset((settings | {SEED: ""}).items()), []).append(run)
    sets = (members for group in groups.values() for members in _by_seed(group))
    return {_shared_name(members, runs): members for members in sets}


def _by_seed(group: Sequence[NamedRun]) -> Iterator[list[NamedRun]]:
    """Yield runs that differ in their seed at most, in lists of distinct seeds.

    A seed once more is no further seed: two such runs may differ in what no configuration has, as
    the learning rate of another training loop. Then folders tell what belongs together, if at all.
    """
    if _have_distinct_seeds(group):
        yield list(group)
        return
    folders: dict[str, list[NamedRun]] = {}
    for run in group:
        folders.setdefault(run.name.rpartition("/")[0], []).append(run)
    for members in folders.values():
        yield from [members] if _have_distinct_seeds(members) else ([run] for run in members)


def _have_distinct_seeds(runs: Sequence[NamedRun]) -> bool:
    return len({as_text(run.config).get(SEED) for run in runs}) == len(runs)


def _shared_name(members: Sequence[NamedRun], runs: Sequence[NamedRun]) -> str:
    first, more = members[0].name, len(members) - 1
    folder = first.rpartition("/")[0] + "/"
    inside = [run.name for run in runs if run.name.startswith(folder)]
    if more and len(folder) > 1 and inside == [run.name for run in members]:
        return folder[:-1]
    return f"{first} and {more} more" if more else first


def environment_tables(runs: Sequence[NamedRun]) -> list[Table]:
    """Return what the environments have in common, and what is one run's own."""
    columns = {run.name: as_text(run.environment) for run in runs if run.environment}
    if not columns:
        return []
    differing = _differing(columns)
    first = next(iter(columns.values()))
    common = tuple((name, value) for name, value in first.items() if name not in differing)
    title = "Environment of all runs" if len(columns) > 1 else "Environment"
    tables = [Table(title, ("", "value"), common)] if common else []
    return tables + ([_table("Environments that differ", columns, differing)] if differing else [])


def as_text(tables: Mapping[str, object]) -> dict[str, str]:
    """Return nested tables as dotted names with their values as text."""
    return {name: _text(name, value) for name, value in flat(tables).items()}


def _text(name: str, value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        words = [_text(name, item) for item in value]
        return shlex.join(words) if name == "command" else ", ".join(words)
    return str(value)


def _differing(columns: Mapping[str, Facts]) -> list[str]:
    names = dict.fromkeys(name for facts in columns.values() for name in facts)
    values = {name: {facts.get(name, MISSING) for facts in columns.values()} for name in names}
    return [name for name in names if len(values[name]) > 1]


def _table(title: str, columns: Mapping[str, Facts], names: Sequence[str]) -> Table:
    """Lay out a row for each name or for each run, whichever are more: tables grow downwards."""
    values = [[facts.get(name, MISSING) for name in names] for facts in columns.values()]
    if len(columns) > len(names):
        lines = [(run, *row) for run, row in zip(columns, values, strict=True)]
        return Table(title, ("run", *names), tuple(lines))
    lines = [(name, *row) for name, row in zip(names, zip(*values, strict=True), strict=True)]
    return Table(title, ("", *columns), tuple(lines))


def text_of(run: NamedRun, kind: str) -> Facts:
    """Return of what text a run's evaluations ("eval") or probes are; nothing without any."""
    metrics = run.metrics
    sizes = [one.side_tokens for one in (metrics.evaluations if kind == "eval" else metrics.probes)]
    if not sizes:
        return {}
    settings = as_text(run.config)
    known = {name: settings[name] for name in SETTINGS[kind] if name in settings}
    known |= {name: str(run.environment[name]) for name in SAME if run.environment.get(name)}
    read = SEVERAL.join(f"{size:,.0f}" for size in sorted(set(filter(None, sizes))))
    return known | ({READ: read} if read else {})


def differences(one: Facts, other: Facts) -> list[str]:
    """Return the names of what is known of both texts and not the same.

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
    together: list[tuple[Facts, list[NamedRun]]] = []
    for run in runs:
        own = text_of(run, kind)
        for number, (known, members) in enumerate(together):
            if not differences(known, own):
                together[number] = {**known, **own}, [*members, run]
                break
        else:
            together.append((own, [run]))
    return together


def named_groups(runs: Sequence[NamedRun], kind: str) -> list[tuple[str, list[NamedRun]]]:
    """Return the groups, each with the words in which it differs from others; "" for a single one.

    The tokens read are named where nothing else is different: they follow from the rest.
    """
    together = groups(runs, kind)
    pairs = combinations((known for known, _ in together), 2)
    names = [*dict.fromkeys(n for pair in pairs for n in differences(*pair) if n != READ)]
    for shown in (names, [*names, READ]):
        words = [
            ", ".join(f"{name} {_short(known[name])}" for name in shown if name in known)
            for known, _ in together
        ]
        if len(set(words)) == len(together):
            break
    return [(text, members) for text, (_, members) in zip(words, together, strict=True)]


def notes(runs: Sequence[NamedRun]) -> list[str]:
    """Return what keeps runs from being compared, and which end below full length."""
    texts = {run.name: text for run in runs if (text := text_of(run, "eval"))}
    lines = [
        f"{name}: its evaluations read {read} tokens, so its own losses are not of one text"
        for name, text in texts.items()
        if SEVERAL in (read := text.get(READ, ""))
    ]
    (known, first), *others = groups(runs, "eval") or [({}, [])]
    for other, members in others:
        where = difference(other, known)
        why = "; a token is easier with more text before it" if LENGTH in where else ""
        names = f"{members[0].name} and {first[0].name}"
        lines.append(f"{names}: validation losses of different text, shown apart ({where}){why}")
    evaluated = [run.name for run in runs if run.metrics.evaluations]
    missing = [name for name in evaluated if not texts.get(name, {}).keys() & {READ, PART}]
    lines += _unchecked("evaluations read the same part of the text", missing, len(evaluated))
    for name, things in SAME.items():
        unknown = [run.name for run in runs if run.environment.get(name) is None]
        lines += _unchecked(f"{things} are the same", unknown, len(runs))
    muon = [run.name for run in runs if as_text(run.config).get("optimizer.kind") == "muon"]
    if muon:
        lines.append(f"{_who(muon)}: the variance leaves out the matrices, which Muon trains")
    return [*lines, *_below_full_length(runs)]


def _below_full_length(runs: Sequence[NamedRun]) -> list[str]:
    """Return a note where the last step of runs, ended or not, is below full length."""
    below = {}
    for run in runs:
        steps = run.metrics.steps
        length, full = steps[-1].length if steps else None, as_text(run.config).get(LENGTH, "")
        if length is not None and full.isdigit() and length < int(full):
            below[run.name] = f"{length:,.0f} of {full}"
    if not below:
        return []
    shown = next(iter(below.values()))
    return [f"{_who([*below])}: full length is not reached, the last step has length {shown}"]


def _unchecked(what: str, missing: Sequence[str], compared: int) -> list[str]:
    """Return a note where any of several runs has no record of what they should share."""
    if not missing or compared < 2:
        return []
    return [f"not checked that {what}: no record of {_who(missing)}"]


def _who(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} runs, such as {names[0]}"


def difference(one: Facts, other: Facts) -> str:
    """Return in words where two texts differ; the tokens read follow from the rest."""
    names = differences(one, other)
    shown = [name for name in names if name != READ] or names
    return ", ".join(f"{n} {_short(one[n])} against {_short(other[n])}" for n in shown)


def _short(value: str) -> str:
    return value[:HASH] if len(value) == SHA256 else value


def cadence(runs: Sequence[NamedRun]) -> str:
    """Return a note where runs evaluate differently often: who looks more often finds more."""
    every = {run.name: as_text(run.config) for run in runs}
    known = {name: own for name, own in every.items() if own.keys() & set(CADENCE)}
    for setting in CADENCE:
        values = {own.get(setting, MISSING): name for name, own in known.items()}
        if len(values) > 1:
            (value, run), (other, second) = list(values.items())[:2]
            where = f"{setting} is {value} in {run} and {other} in {second}"
            return f"{where}: whoever looks more often gets there earlier. "
    return ""
