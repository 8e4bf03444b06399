# jaxpaged on CPUs (x86-64 and arm64). Build and run from the repository's root:
#   docker build -f docker/cpu.Dockerfile -t jaxpaged:cpu .
#   docker run --rm --init -p 127.0.0.1:8000:8000 -v jaxpaged-cache:/cache jaxpaged:cpu --model /models/x
# (Flags alone mean `serve`; other commands are named first: generate, bench, doctor.)
# To pin the base by content as well: --build-arg BASE=python:3.12.12-slim-bookworm@sha256:DIGEST, with the digest that
# `docker buildx imagetools inspect python:3.12.12-slim-bookworm` prints.
ARG BASE=python:3.12.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/jaxpaged && python3 -m venv /opt/build
COPY docker/build.lock docker/cpu.lock docker/
RUN /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r docker/build.lock \
    && /opt/jaxpaged/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r docker/cpu.lock
COPY pyproject.toml README.md LICENSE ./
COPY jaxpaged jaxpaged/
COPY pallas_kernels pallas_kernels/
COPY server server/
RUN /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/jaxpaged/bin/python -m pip install --no-cache-dir --no-deps dist/*.whl

FROM ${BASE}
# one folder takes all that is written: downloads, compiled programs, the user's home. Group 0 may write there too, for
# platforms that give a container a user of their own
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /cache --shell /usr/sbin/nologin jaxpaged \
    && install --directory --owner=10001 --group=0 --mode=2775 /cache
COPY --from=build /opt/jaxpaged /opt/jaxpaged
COPY --chmod=755 docker/entrypoint.sh docker/healthcheck.py /opt/jaxpaged/share/
ENV PATH=/opt/jaxpaged/bin:$PATH \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    PYTHONUNBUFFERED=1
WORKDIR /cache
USER 10001
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=4 \
    CMD ["python", "/opt/jaxpaged/share/healthcheck.py"]
ENTRYPOINT ["/opt/jaxpaged/share/entrypoint.sh"]
