#!/usr/bin/env bash
# Builds the container image, and beside it the same without weights, tagged IMAGE-slim.
#
#   ./build.sh                      the platform's `exec`: one case a run
#   ./build.sh --api invoke         the platform's `invoke`: a server
#   IMAGE=name:tag WEIGHTS=model/weights/mine CONTAINER_ENGINE=podman BASE_IMAGE=my/python:3.11 \
#       ./build.sh [--api exec|invoke] [options for the engine's build]
set -euo pipefail
cd "$(dirname "$0")"
source ./container-engine.sh

api=exec
if [[ "${1:-}" == --api ]]; then
    api=${2:-}
    shift 2 || true
fi
if [[ "$api" != exec && "$api" != invoke ]]; then
    echo "--api is exec or invoke, not '$api'." >&2
    exit 1
fi

IMAGE=${IMAGE:-atypical-mitosis:latest}
WEIGHTS=${WEIGHTS:-model/weights/default}
if [[ ! -f "$WEIGHTS/config.json" ]]; then
    echo "$WEIGHTS is no weights folder; train one, or set WEIGHTS to one below model/." >&2
    exit 1
fi
real=$(realpath -- "$WEIGHTS")
if [[ "$real" != "$(pwd -P)"/model/* ]]; then
    echo "$WEIGHTS is not below model/, which is all that the build gets; copy it to model/weights/." >&2
    exit 1
fi
WEIGHTS=${real#"$(pwd -P)/"}
arguments=()
# By these labels export.sh knows which weights the image has.
labels=(--label "weights.folder=$WEIGHTS" --label "weights.config.sha256=$(sha256sum <"$WEIGHTS/config.json" | cut -d" " -f1)")
[[ -n "${BASE_IMAGE:-}" ]] && arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")

echo "Building $IMAGE-slim ($api) with $CONTAINER_ENGINE"
"$CONTAINER_ENGINE" build "${arguments[@]}" "$@" --target "slim-$api" --tag "$IMAGE-slim" .
echo "Building $IMAGE ($api, weights $WEIGHTS) with $CONTAINER_ENGINE"
"$CONTAINER_ENGINE" build "${arguments[@]}" --build-arg "WEIGHTS=$WEIGHTS" "${labels[@]}" "$@" --target "$api" --tag "$IMAGE" .
