"""`python -m benchmarks`: all sections or those named, as a table, as JSON, and as docs/performance.md."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import sys
import time
import traceback
from pathlib import Path

from benchmarks.measuring import progress
from benchmarks.page import for_terminal, in_order, page
from benchmarks.results import Result, machine, result_of, saved

MEASURE = re.compile(r"^def measure\(quick\b", re.MULTILINE)


def sections() -> list[str]:
    """The modules beside this one that measure; found by their text, for some import a lot."""
    here = Path(__file__).parent
    return in_order(file.stem for file in here.glob("*.py") if MEASURE.search(file.read_text()))


def run(name: str, quick: bool, quiet: bool) -> Result:
    began = time.perf_counter()
    module = importlib.import_module(f"benchmarks.{name}")
    if not quiet:
        print(f"\n{module.TITLE}")
    lines = []
    for line in module.measure(quick):
        lines.append(line)
        progress("")
        if not quiet:
            print(for_terminal(line), flush=True)
    took_s = time.perf_counter() - began
    if not quiet:
        print(f"  {took_s:.0f} s")
    return result_of(name, module.TITLE, module.__doc__ or "", lines, quick=quick, took_s=took_s)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections())}; all without one")
    parser.add_argument("--quick", action="store_true", help="short rounds: to see that it runs, not to publish")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="keep the results and write docs/performance.md")
    parser.add_argument("--json", action="store_true", help="the results as JSON on standard output")
    parser.add_argument("--page-only", action="store_true", help="write the page of the results that are kept")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(sections()):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(sections())}")
    results, failed = [], []
    if not given.page_only:
        if not given.json:
            print(machine())
        for name in given.sections or sections():
            try:
                results.append(run(name, given.quick, given.json))
            except Exception:  # one section that fails is told at once, and again at the end; the others go on
                traceback.print_exc()
                failed.append(name)
                continue
            if given.write:
                results[-1].save()
    if given.write or given.page_only:
        (given.write or Path("docs/performance.md")).write_text(page(saved()))
    if given.json:
        json.dump([result.as_json() for result in results], sys.stdout, indent=1, ensure_ascii=False)
        print()
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
