# Any image with Python 3.11 or newer, its venv module and glibc or musl.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /srv
# `make image EXTRA=otel` gives requirements-otel.lock.
ARG REQUIREMENTS=requirements.lock
COPY ${REQUIREMENTS} ./requirements.lock
# Build secrets, which no layer keeps. pip: a pip.conf for a package index of your own. ca: its
# certificate authorities, which that pip.conf names as `cert = /run/secrets/ca`.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: --requirement requirements.lock \
    && /opt/venv/bin/python -m pip uninstall --yes --quiet --disable-pip-version-check setuptools pip
COPY gunicorn.conf.py ./
COPY app app
COPY handlers handlers
# Readable for every user, whatever umask the checkout was made with. Nothing can be compiled later:
# the file system may be read-only. By hash, because builders and mounts change times.
RUN chmod -R a+rX . \
    && python3 -m compileall -q --invalidation-mode checked-hash app handlers

FROM ${BASE_IMAGE}
# `make image` gives the version of pyproject.toml, and the git commit.
ARG VERSION=unknown
ARG REVISION=
LABEL org.opencontainers.image.title="stripe-event-receiver" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.description="Receives Stripe event notifications and runs one callback for each, once" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/srv \
    FLASK_SKIP_DOTENV=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELEASE=${REVISION}
WORKDIR /srv
# The group is root's, so that a platform which picks its own user id (with group 0) can write too.
RUN install -d -o 10001 -g 0 -m 0770 /srv/var
COPY --from=build /opt/venv /opt/venv
# The lock is included: an image built on this one installs its packages with it as constraints.
COPY --from=build /srv /srv
USER 10001:0
VOLUME ["/srv/var"]
EXPOSE 4242
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection((os.environ.get('BIND_HOST') or '127.0.0.1').strip('[]'), int(os.environ.get('PORT') or 4242), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["gunicorn"]
