# Sourced by build.sh and export.sh: sets CONTAINER_ENGINE to docker, or to podman when docker has no daemon.
if [[ -z "${CONTAINER_ENGINE:-}" ]]; then
    if docker info >/dev/null 2>&1; then
        CONTAINER_ENGINE=docker
    elif command -v podman >/dev/null; then
        CONTAINER_ENGINE=podman
    else
        echo "Neither a running Docker nor Podman was found; start Docker, or set CONTAINER_ENGINE." >&2
        exit 1
    fi
fi
