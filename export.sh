#!/usr/bin/env bash
# Writes what is uploaded to the platform: the image as a tarball, and the weights as the separate model tarball.
#
#   ./export.sh
#   IMAGE=name:tag WEIGHTS=model/weights/default EXPORT_FOLDER=export ./export.sh
set -euo pipefail
cd "$(dirname "$0")"
source ./container-engine.sh

IMAGE=${IMAGE:-atypical-mitosis:latest}
WEIGHTS=${WEIGHTS:-model/weights/default}
EXPORT_FOLDER=${EXPORT_FOLDER:-export}
LIMIT=$((10 * 1024 ** 3)) # bytes of compressed image that the platform takes

if ! "$CONTAINER_ENGINE" image inspect "$IMAGE" >/dev/null 2>&1; then
    echo "There is no image $IMAGE; run ./build.sh first." >&2
    exit 1
fi
if [[ ! -f "$WEIGHTS/config.json" ]]; then
    echo "$WEIGHTS is no weights folder; train one, or set WEIGHTS." >&2
    exit 1
fi
compress=gzip
command -v pigz >/dev/null && compress=pigz

mkdir -p "$EXPORT_FOLDER"
image_file=$EXPORT_FOLDER/$(basename "${IMAGE%%:*}").tar.gz
model_file=$EXPORT_FOLDER/model.tar.gz
trap 'rm -f "$image_file.partial" "$model_file.partial"' EXIT

echo "Saving $IMAGE with $CONTAINER_ENGINE and $compress"
"$CONTAINER_ENGINE" save "$IMAGE" | "$compress" -c >"$image_file.partial"
mv "$image_file.partial" "$image_file"
tar -C "$WEIGHTS" -c . | "$compress" -c >"$model_file.partial"
mv "$model_file.partial" "$model_file"

for file in "$image_file" "$model_file"; do
    size=$(stat -c %s "$file")
    echo "$file: $((size / 1024 ** 2)) MiB"
    if ((size > LIMIT)); then
        echo "Warning: $file is larger than the 10 GB that the platform takes." >&2
    fi
done
