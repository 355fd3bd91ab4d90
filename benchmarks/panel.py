"""What the progress panel adds to an optimization on a language model that answers at once.

    python benchmarks/panel.py [--rounds 5] [--candidates 6]

Both variants run in turn in one kernel, which sends the panel's messages as it would to JupyterLab; who executes
the notebook reads them. Aim: at most 5 % longer with the panel. A ratio is that of the medians of all rounds; CPU
time is the kernel's, all its threads together. "In the panel" is the CPU time of the panel's own calls, without the
kernel's sending. The first pair of runs, which imports everything, does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from overhead import OPTIONS, Engine, examples

_VALSET = 300
_THREADS = 4


def run_once(panel: bool, candidates: int) -> dict[str, float]:
    """Optimize once, in a kernel, and return seconds, CPU seconds, LM calls and redraws."""
    import dspy

    import dspy_nb as nb
    from dspy_nb.notebook.widgets.progress import ProgressPanel

    engine = Engine(0.0)
    listener = ProgressPanel() if panel else None
    spent = 0.0

    def timed(event: nb.Event) -> None:
        nonlocal spent
        began = time.thread_time()
        if listener is not None:
            listener(event)
        spent += time.thread_time() - began

    with dspy.context(lm=dspy.LM("scripted/bench", engine=engine, cache=False)):
        started, cpu = time.perf_counter(), time.process_time()
        nb.optimize(
            dspy.Predict("question -> answer"),
            trainset=examples(20),
            valset=examples(_VALSET),
            metric=nb.exact_match("answer"),
            optimizer="BootstrapFewShotWithRandomSearch",
            options={"num_candidate_programs": candidates, **OPTIONS},
            num_threads=_THREADS,
            on_event=timed,
        )
        return {
            "seconds": time.perf_counter() - started,
            "cpu_s": time.process_time() - cpu,
            "panel_s": spent,
            "calls": engine.calls,
            "redraws": listener.redraws if listener else 0,
        }


def measure(rounds: int, candidates: int) -> None:
    """Run both variants in turn, the one that begins changing, and print one JSON object a run."""
    for number in range(rounds + 1):
        for panel in (False, True) if number % 2 else (True, False):
            result = run_once(panel, candidates)
            if number:
                print(json.dumps({"panel": panel, **result}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=6)
    arguments = parser.parse_args()
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    here = Path(__file__).resolve().parent
    source = f"import panel\npanel.measure({arguments.rounds}, {arguments.candidates})"
    notebook = new_notebook(cells=[new_code_cell(source)])
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=3600, kernel_name="python3").execute(
            env={**os.environ, "PYTHONPATH": path, "DSPY_CACHEDIR": folder}
        )
    lines = "".join(output.text for output in notebook.cells[0].outputs if output.output_type == "stream")
    runs = [json.loads(line) for line in lines.splitlines() if line.startswith('{"panel"')]
    without, with_panel = ([run for run in runs if run["panel"] is panel] for panel in (False, True))
    print(f"{'':22} {'off':>9} {'on':>9} {'ratio':>8}")
    for key, name in (("seconds", "wall-clock, s"), ("cpu_s", "CPU, s")):
        off, on = (statistics.median(run[key] for run in group) for group in (without, with_panel))
        print(f"{name:22} {off:9.3f} {on:9.3f} {on / off:8.3f}")
    share = statistics.median(run["panel_s"] / run["cpu_s"] for run in with_panel)
    redraws = statistics.median(run["redraws"] for run in with_panel)
    seconds = statistics.median(run["seconds"] for run in with_panel)
    print(f"in the panel: {share:.2%} of the run's CPU time")
    print(f"{with_panel[0]['calls']:,} LM calls a run; {redraws:g} redraws, {redraws / seconds:.1f} a second")


if __name__ == "__main__":
    main()
