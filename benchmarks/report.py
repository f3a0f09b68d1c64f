"""The report page: what it costs to build for many long runs, and to open.

    python -m benchmarks.report                 30 runs of 20,000 steps; about a minute
    python -m benchmarks.report --runs 5 --steps 2000

The runs are synthetic logs with spikes, in a temporary directory. Each page is built in a fresh
process, reading included, in seconds of the processor, and opened in Chromium, if there is one: the
moment the first figure has its curves, and DOMContentLoaded, when all have theirs, both from the
start of the navigation.
"""

import argparse
import json
import math
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.measure import report
from lengthen.reporting.gather import gather
from lengthen.reporting.html import write
from lengthen.run.records import EvalRecord, ProbeRecord, Record, StepRecord, to_json

FIRST_PLOT = """() => new Promise(done => {
    const look = () => document.querySelector(".js-plotly-plot .scatterlayer path")
        ? done(performance.now()) : setTimeout(look, 5);
    look();
})"""
CONTENT = "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def records(steps: int, random_: random.Random) -> Iterator[Record]:
    """Yield the lines of a run whose loss falls, with a spike now and then."""
    lowest, tokens = math.inf, 0
    for step in range(1, steps + 1):
        length = min(1024, 64 + step // 10 * 8)
        tokens += 64 * length
        counters: dict[str, Any] = {"step": step, "tokens": tokens, "seconds": step * 0.123456789}
        loss = 2.5 + 7 / step**0.2 + random_.gauss(0, 0.02)
        loss *= 1.4 if random_.random() < 0.001 else 1.0
        yield StepRecord(
            **counters,
            length=length,
            rows=64,
            loss=loss,
            loss_ratio=None if step == 1 else loss / lowest,
            grad_norm=random_.lognormvariate(0, 0.3),
            variance_norm=100 * random_.lognormvariate(0, 0.05),
            variance_max=0.01 * random_.lognormvariate(0, 0.1),
            lr=1e-3 * (1 - step / (steps + 1)),
            joined=0.0,
        )
        lowest = min(lowest, loss)
        counters |= {"side_tokens": 8192, "side_seconds": 0.1}
        if step % 10 == 0:
            yield ProbeRecord(**counters, loss=loss, loss_ratio=loss / lowest)
        if step % 100 == 0:
            yield EvalRecord(**counters, loss=loss, perplexity=math.exp(loss))


def write_runs(root: Path, runs: int, steps: int) -> None:
    for number in range(runs):
        folder = root / f"variant-{number % 6}" / f"seed-{number // 6}"
        folder.mkdir(parents=True)
        lines = (json.dumps(to_json(record)) for record in records(steps, random.Random(number)))
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(root: Path, out: Path) -> None:
    """Build the page, and print this process's seconds and peak memory."""
    began = time.process_time()
    write(out, gather([root]), title="Benchmark")
    report("REPORT_BUILD_SECONDS", time.process_time() - began)
    report("REPORT_PEAK_MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
    report("REPORT_PAGE_MB", out.stat().st_size / 1e6)


def open_page(out: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium here: the page is not opened")
        return
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(out.as_uri(), wait_until="commit")
        report("REPORT_FIRST_PLOT_MS", float(page.evaluate(FIRST_PLOT)))
        page.wait_for_load_state()
        report("REPORT_CONTENT_LOADED_MS", float(page.evaluate(CONTENT)))
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of the report page.")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20_000, help="of each run")
    parser.add_argument("--build", nargs=2, type=Path, metavar=("ROOT", "OUT"), help="used inside")
    options = parser.parse_args()
    if options.build:
        build(*options.build)
        return
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "runs", Path(folder) / "report.html"
        write_runs(root, options.runs, options.steps)
        command = [sys.executable, "-m", "benchmarks.report", "--build", str(root), str(out)]
        subprocess.run(command, check=True)
        open_page(out)


if __name__ == "__main__":
    main()
