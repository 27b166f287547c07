# Targets: exec (one case a run, the default) and invoke (a server), each also as slim-exec and slim-invoke without the
# weights, for a model tarball that is uploaded apart. All share their layers.
#
# The base has Python 3.11 with venv and pip; CUDA comes with the torch wheels, so no CUDA image is needed.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS code

COPY requirements.lock /opt/app/
# What installs packages leaves again: nothing runs it, and the bill of materials does not list it.
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps \
        -r /opt/app/requirements.lock \
    && /opt/venv/bin/pip uninstall --yes --disable-pip-version-check setuptools pip

COPY process.py /opt/app/
COPY model/*.py /opt/app/model/
COPY model/modes/*.py /opt/app/model/modes/
COPY model/images/*.py /opt/app/model/images/
COPY model/network/*.py /opt/app/model/network/
COPY model/slides/*.py /opt/app/model/slides/
COPY model/speed/*.py /opt/app/model/speed/
COPY model/report/ /opt/app/model/report/
RUN /opt/venv/bin/python -m compileall -q /opt/app && chmod -R a+rX /opt/app

# Only /output and /tmp are written to; any user will do. Paths are absolute because Apptainer knows no WORKDIR. NVIDIA's
# container runtime, where it is chosen by its name, gives GPUs to images that ask for them.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /opt/app
ENTRYPOINT ["/opt/venv/bin/python", "/opt/app/process.py"]

FROM code AS slim-exec
LABEL org.grand-challenge.api-method=exec

FROM code AS slim-invoke
LABEL org.grand-challenge.api-method=invoke
CMD ["serve"]

FROM code AS baked
ARG WEIGHTS=model/weights/default
COPY --chmod=0755 ${WEIGHTS} /opt/app/model/weights/default

FROM baked AS invoke
LABEL org.grand-challenge.api-method=invoke
CMD ["serve"]

FROM baked AS exec
LABEL org.grand-challenge.api-method=exec
