"""What a reader should know of runs that were not all computed in one way."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from lengthen.experiments.compare.outcomes import Outcome

VERSIONS = ("lengthen", "torch")  # another one may compute other digits


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each way in which runs were computed otherwise than others, or than now."""
    now = {name: version(name) for name in VERSIONS}
    devices = {device for outcome in outcomes if (device := _device(outcome))}
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        unlike = [*_versions(outcome, now), *_micro_tokens(outcome)]
        if len(devices) > 1:
            unlike.append(f"computed on {_device(outcome) or 'a device that is not recorded'}")
        for what in unlike:
            found.setdefault(what, []).append(outcome.run.name)
    return [f"{_who(runs)}: {what}" for what, runs in found.items()]


def _versions(outcome: Outcome, now: Mapping[str, str]) -> Iterator[str]:
    packages = outcome.shown.environment.get("packages")
    known = packages if isinstance(packages, dict) else {}
    other = [name for name in VERSIONS if known.get(name) not in (None, now[name])]
    if other:
        said = ", ".join(f"{name} {known[name]} (now {now[name]})" for name in other)
        yield f"taken over as trained, with {said}"


def _micro_tokens(outcome: Outcome) -> Iterator[str]:
    asked = outcome.run.config.batch.micro_tokens
    used = asked if outcome.found is None else outcome.found.batch.micro_tokens
    if asked not in ("auto", used):
        yield f"batch.micro_tokens is {used}, the file asks for {asked}; equal to rounding"


def _device(outcome: Outcome) -> str:
    """Return the kind of device, without the number of a card; empty where it is not recorded."""
    return str(outcome.shown.environment.get("device", "")).rpartition(", ")[-1]


def _who(runs: Sequence[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"
