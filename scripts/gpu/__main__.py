"""`make gpu`: install the wheels, carry the parts out within a time box, pack what they found.

Only Python's own library is imported here: the packages come with the wheels.
"""

import argparse
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from scripts.gpu.archive import archive
from scripts.gpu.install import ROOT, environment
from scripts.gpu.parts import PARTS, Part

MINUTES = 15.0
RESERVE = 15.0  # seconds for the last archive
ARCHIVE = "gpu-results.tar.xz"
WORK = ROOT / "build" / "gpu"
CARRIED = ROOT / ".gpu"


def chosen(names: str) -> list[Part]:
    """Return the parts that are named, in their own order; all for none. Raises ValueError."""
    known = [part.name for part in PARTS]
    wanted = [name for name in names.replace(" ", "").split(",") if name]
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            rule = f"must be of {', '.join(known)}"
            raise ValueError(f"gpu: PARTS {rule}; got {name!r}; did you mean {near[0]!r}?")
    return [part for part in PARTS if part.name in wanted or not wanted]


def carried_out(words: Sequence[str], folder: Path, seconds: float, env: Mapping[str, str]) -> str:
    """Run a part; return "ok", "failed", or "cut" where it was killed at the end of its time.

    What it prints goes into output.log in its folder.
    """
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            words, cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return "failed" if process.wait(timeout=seconds) else "ok"
        except subprocess.TimeoutExpired:
            return "cut"
        finally:
            with suppress(ProcessLookupError):  # whatever it started ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def queue(parts: Sequence[Part], end: float, env: Mapping[str, str], options: Namespace) -> int:
    """Carry the parts out, each in its share of what is left; return the exit code."""
    results, target = WORK / "results", options.out / ARCHIVE
    verdicts, left_out = {}, []
    for number, part in enumerate(parts):
        left = max(1.0, end - time.monotonic())
        seconds = left * part.share / sum(other.share for other in parts[number:])
        folder = results / part.name
        folder.mkdir()
        words = [sys.executable, "-m", f"scripts.gpu.{part.name}", str(folder), f"{seconds:.0f}"]
        words += ["--rehearse"] * options.rehearse
        verdicts[part.name] = carried_out(words, folder, seconds, env)
        print(f"{part.name}: {verdicts[part.name]}", flush=True)
        if verdicts[part.name] == "failed":
            print(_tail(folder / "output.log"), flush=True)
        (results / "verdicts.json").write_text(json.dumps(verdicts, indent=1) + "\n")
        left_out = archive(results, target)  # now: the machine may be taken away
    print(f"results  {target}, {target.stat().st_size:,} bytes")
    for name in left_out:
        print(f"left out {name}: the archive would be too large")
    return int("failed" in verdicts.values())


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def main() -> int:
    """Do it all; return the exit code."""
    parser = argparse.ArgumentParser(prog="make gpu")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--parts", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes - RESERVE
    try:
        parts = chosen(options.parts)
        shutil.rmtree(WORK, ignore_errors=True)
        (WORK / "results").mkdir(parents=True)
        env = environment(CARRIED / "wheels", WORK / "site")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    look = [sys.executable, "-m", "scripts.gpu.machine", str(WORK / "results")]
    if subprocess.run([*look, *["rehearse"] * options.rehearse], cwd=ROOT, env=env).returncode:
        return 2
    return queue(parts, end, env, options)


if __name__ == "__main__":
    sys.exit(main())
