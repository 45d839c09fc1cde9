# The image of one commit: `make docker` builds it, docs/docker.md shows how it is run.
# A mirror of the base, or another one with Python 3.11 or newer: --build-arg PYTHON=…
ARG PYTHON=python:3.11.16-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

# What of pyproject.toml says what to install: another line of it is no reason to install again.
FROM ${PYTHON} AS requirements
WORKDIR /build
COPY pyproject.toml ./
RUN python -c "import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *extras['postgres'], *extras['mysql'], sep='\n')" \
      > /requirements.txt

# What is installed from elsewhere: the large layer, the same for all commits with the same pins.
FROM ${PYTHON} AS packages
WORKDIR /build
COPY constraints.txt ./
COPY --from=requirements /requirements.txt ./
# Static libraries are for linking; nothing here is ever linked with them.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir \
      --disable-pip-version-check -c constraints.txt -r requirements.txt \
    && find /opt/venv -name '*.a' -delete

# What is installed from this repository.
FROM ${PYTHON} AS project
ARG COMMIT
RUN expr "${COMMIT}" : '[0-9a-f]\{40,64\}$' > /dev/null || { echo \
      "COMMIT is '${COMMIT}', no commit: make docker, or --build-arg COMMIT=\$(git rev-parse HEAD)" \
      >&2; exit 1; }
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir \
      --disable-pip-version-check -c constraints.txt setuptools
COPY pyproject.toml README.md LICENSE ./
COPY lowrank lowrank
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir \
      --disable-pip-version-check --no-deps --no-build-isolation --prefix=/install .

FROM ${PYTHON}
# Triton, which torch uses on GPUs, compiles with gcc; its version has no part in the results.
# --user may be anyone: to all belong the home, the volumes, and where W&B's agent has its notes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 lowrank \
    && useradd --uid 1000 --gid 1000 --home-dir /home/lowrank --create-home lowrank \
    && mkdir -p /lowrank/runs /lowrank/data /lowrank/wandb \
    && chmod 1777 /home/lowrank /lowrank/runs /lowrank/data /lowrank/wandb
COPY --from=packages /opt/venv /opt/venv
WORKDIR /lowrank
COPY train.py ./
COPY sweeps sweeps
COPY scripts/docker_entrypoint.py scripts/
COPY --from=project /install /opt/venv

ARG COMMIT
ARG IMAGE=""
ARG SOURCE=""
# A user without an entry in /etc/passwd has a home and a name all the same. The commit, the address
# of the repository and the image's name are what a run's record and W&B note of them.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    HOME=/home/lowrank \
    LOGNAME=lowrank \
    LOWRANK_COMMIT=${COMMIT} \
    WANDB_GIT_COMMIT=${COMMIT} \
    WANDB_GIT_REMOTE_URL=${SOURCE} \
    WANDB_DOCKER=${IMAGE}
LABEL org.opencontainers.image.title="lowrank" \
      org.opencontainers.image.description="Experiment tracking for the rank of neural networks" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.source="${SOURCE}"
USER 1000:1000
VOLUME ["/home/lowrank", "/lowrank/data", "/lowrank/runs"]
ENTRYPOINT ["python", "/lowrank/scripts/docker_entrypoint.py"]
