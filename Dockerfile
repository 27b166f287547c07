# The base has Python 3.11 with venv and pip; CUDA comes with the torch wheels, so no CUDA image is needed.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

COPY requirements.txt /opt/app/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r /opt/app/requirements.txt

COPY process.py /opt/app/
COPY model /opt/app/model
RUN /opt/venv/bin/python -m compileall -q /opt/app

# Only /output and /tmp are written to; any user will do.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 1000:1000
WORKDIR /opt/app
ENTRYPOINT ["python", "process.py"]
