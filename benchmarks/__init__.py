"""How fast the package is, and in how much memory."""

import sys

STUDIES = ["drop_in", "hidden_velocity", "initialization", "initialization_elsewhere"]
STUDIES += ["memory", "progress", "rounding"]
MOVED = {f"benchmarks.{name}": f"studies.{name}" for name in STUDIES}
MOVED["benchmarks.tables"] = "docs.tables"
"""What had been a benchmark before it became a study: who calls it is told where it is."""

for _word in sys.orig_argv[1:3]:
    if _word in MOVED:
        sys.exit(f"{_word} is {MOVED[_word]} now: python -m {MOVED[_word]}")
