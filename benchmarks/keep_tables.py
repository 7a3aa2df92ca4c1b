"""Copy the tables that `diff-es reproduce` has made from their work folder into docs/results/tables."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from diff_es.reproduce import TableResult, tables
from results import ROOT

#: What is kept of a table; the work behind it and the HTML report stay where they are.
KEPT = ("table.md", "table.csv", "claims.csv", "result.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the folder given to `diff-es reproduce --output`")
    parser.add_argument("--scale", default="small")
    arguments = parser.parse_args()
    for name in tables:
        folder = arguments.output / name / arguments.scale
        if not (folder / "result.json").exists():
            print(f"{name}: not made")
            continue
        TableResult.read(folder / "result.json")  # only what can be read again is kept
        target = ROOT / "docs" / "results" / "tables" / name
        shutil.rmtree(target, ignore_errors=True)
        (target / "figures").mkdir(parents=True)
        for file in KEPT:
            shutil.copy(folder / file, target / file)
        for picture in sorted((folder / "figures").glob("*.png")):
            if picture.stem.startswith(("plot", "schedules", "images")):
                shutil.copy(picture, target / "figures" / picture.name)
        print(f"{name}: kept in {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
