#!/usr/bin/env bash
# Evaluates a weights folder on labelled crops, or results of the platform against a ground truth.
#
#   training/evaluate.sh model/weights/default data.root=DIR [--output DIR] [--views d4] [--device auto]
#   training/evaluate.sh RESULTS --truth ground_truth.json
#
# DIR holds manifest.csv and the crops (training/prepare.py). docs/evaluation.md tells what comes out.
set -euo pipefail
cd "$(dirname "$0")/.."

make --no-print-directory --silent train-env
exec .venv/bin/python -m training.evaluate "$@"
