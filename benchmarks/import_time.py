"""What `import facepcl` costs beyond `import timm`: whole processes in turn, user + system seconds.

python benchmarks/import_time.py
"""

import argparse
import resource
import statistics
import subprocess
import sys

from machine import describe


def cpu_seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    pairs = [(cpu_seconds("import timm"), cpu_seconds("import timm, facepcl")) for _ in range(runs)]
    plain, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(describe(), "\n")
    print(
        f"import timm {plain:.3f} s, with facepcl {ours:.3f} s (medians of {runs}); median ratio {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
