#!/usr/bin/env bash
# Writes what is uploaded to the platform into EXPORT_FOLDER, and says the sizes:
#
#   <name>.tar.gz        the image with its weights; enough alone
#   <name>-slim.tar.gz   the image without weights, for a separate model upload,
#   model.tar.gz         and that model
#   sbom.cdx.json        bill of materials of the image's Python packages (CycloneDX)
#
# The weights are those that the image was built with.
#
#   ./export.sh
#   IMAGE=name:tag EXPORT_FOLDER=export ./export.sh
set -euo pipefail
cd "$(dirname "$0")"
source ./container-engine.sh

IMAGE=${IMAGE:-atypical-mitosis:latest}
EXPORT_FOLDER=${EXPORT_FOLDER:-export}
LIMIT=$((10 * 1000 ** 3)) # bytes of compressed image that the platform takes

for image in "$IMAGE" "$IMAGE-slim"; do
    if ! "$CONTAINER_ENGINE" image inspect "$image" >/dev/null 2>&1; then
        echo "There is no image $image; run ./build.sh first." >&2
        exit 1
    fi
done
label() {
    "$CONTAINER_ENGINE" image inspect --format "{{ index .Config.Labels \"$1\" }}" "$IMAGE"
}
built_with=$(label weights.folder)
if [[ -z "$built_with" || "$built_with" == "<no value>" ]]; then
    echo "$IMAGE does not say which weights it has: an earlier build.sh built it; run ./build.sh again." >&2
    exit 1
fi
WEIGHTS=${WEIGHTS:-$built_with}
if [[ ! -f "$WEIGHTS/config.json" ]] ||
    [[ "$(sha256sum <"$WEIGHTS/config.json")" != "$(label weights.config.sha256) "* ]]; then
    echo "$IMAGE was not built with the weights in '$WEIGHTS' as they are now; run WEIGHTS=$WEIGHTS ./build.sh first." >&2
    exit 1
fi
compress=gzip
command -v pigz >/dev/null && compress=pigz

mkdir -p "$EXPORT_FOLDER"
partial=$EXPORT_FOLDER/.partial
trap 'rm -f "$partial"' EXIT

# Puts what a command prints, compressed, into a file that is there whole or not at all, and says its size.
write() {
    local target=$1 size
    shift
    if ! "$@" | "$compress" -c >"$partial"; then
        echo "$target was not written: '$*' failed; what was there before is unchanged." >&2
        exit 1
    fi
    mv "$partial" "$target"
    size=$(stat -c %s "$target")
    echo "$target: $((size / 1024 ** 2)) MiB"
    if ((size > LIMIT)); then
        echo "Warning: $target is larger than the 10 GB that the platform takes." >&2
    fi
}

name=${IMAGE##*/}
name=${name%:latest}
name=${name//:/-}
echo "Saving with $CONTAINER_ENGINE and $compress; this takes minutes"
write "$EXPORT_FOLDER/$name.tar.gz" "$CONTAINER_ENGINE" save "$IMAGE"
write "$EXPORT_FOLDER/$name-slim.tar.gz" "$CONTAINER_ENGINE" save "$IMAGE-slim"
# The page that training writes beside the weights shows crops, so it stays here.
write "$EXPORT_FOLDER/model.tar.gz" tar -C "$WEIGHTS" --exclude=./report.html -c .

make --no-print-directory --silent .venv/export-requirements.done
.venv/bin/cyclonedx-py requirements requirements.lock --of JSON -o "$partial"
mv "$partial" "$EXPORT_FOLDER/sbom.cdx.json"
echo "$EXPORT_FOLDER/sbom.cdx.json: $(grep -c '"purl"' "$EXPORT_FOLDER/sbom.cdx.json") packages"
