# syntax=docker/dockerfile:1
# The gateway as an image: what the lock names, one user without rights, nothing to write but its volume.
#
#   docker build --tag streaming-gateway .
#
# Name a digest for builds that must be the same for ever: --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/gateway
# The lock alone first: a change of the code installs nothing anew.
COPY deploy/requirements.lock /build/deploy/requirements.lock
RUN /opt/gateway/bin/pip install --require-hashes --requirement /build/deploy/requirements.lock
COPY pyproject.toml README.md LICENSE /build/
COPY asyncapi /build/asyncapi
COPY gateway /build/gateway
# Compiled here, since nothing can be written there. pip itself is of no use to what runs.
RUN /opt/gateway/bin/pip install --no-deps --no-build-isolation /build \
    && /opt/gateway/bin/python -m compileall -q /opt/gateway \
    && /opt/gateway/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Streaming API gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
# By number, so that a cluster can see that it is not root. /var/lib/gateway is theirs; all else is root's.
RUN groupadd --gid 10001 gateway \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/gateway --shell /usr/sbin/nologin gateway \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY deploy/container.toml /etc/gateway/gateway.toml
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /etc/gateway
VOLUME ["/var/lib/gateway"]
USER 10001:10001
EXPOSE 8080 9090
# SIGTERM begins the drain: whoever stops the container must wait longer than stream.drain_seconds (20).
STOPSIGNAL SIGTERM
# Alive, not ready: a gateway whose Kafka is away must not be killed for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('GATEWAY_ADMIN__PORT', '9090') + '/livez', timeout=4)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
