#!/usr/bin/env bash
# Builds the container image.
#
#   ./build.sh
#   IMAGE=name:tag CONTAINER_ENGINE=podman BASE_IMAGE=my/python:3.11 ./build.sh [options for the engine's build]
set -euo pipefail
cd "$(dirname "$0")"
source ./container-engine.sh

IMAGE=${IMAGE:-atypical-mitosis:latest}
arguments=()
[[ -n "${BASE_IMAGE:-}" ]] && arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")

echo "Building $IMAGE with $CONTAINER_ENGINE"
"$CONTAINER_ENGINE" build "${arguments[@]}" "$@" --tag "$IMAGE" .
