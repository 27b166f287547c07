"""Figures as the challenge computes them, with confidence intervals, from a table of held-out predictions.

python -m training.evaluate runs/compact/held_out_slides.csv
"""

import argparse
import json
import sys
from pathlib import Path

from model.errors import UserError
from training.evaluation.scores import report_table


def main() -> None:
    """Prints the report of the table named on the command line, as JSON."""
    parser = argparse.ArgumentParser(description="Report the figures of held-out predictions as JSON.")
    parser.add_argument("table", type=Path, help="held_out_SPLIT.csv of a training run")
    arguments = parser.parse_args()
    if not arguments.table.is_file():
        sys.exit(f"There is no table {arguments.table}; a training run writes held_out_SPLIT.csv into its run folder.")
    try:
        print(json.dumps(report_table(arguments.table), indent=2))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
