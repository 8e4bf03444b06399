# jaxpaged on AMD GPUs (MI300X: gfx942). Build and run from the repository's root:
#   docker build -f docker/rocm.Dockerfile -t jaxpaged:rocm .
#   docker run --rm --init --device /dev/kfd --device /dev/dri \
#     --group-add "$(stat -c %g /dev/kfd)" --group-add "$(stat -c %g /dev/dri/renderD128)" \
#     --shm-size 8g -p 127.0.0.1:8000:8000 -v jaxpaged-cache:/cache jaxpaged:rocm --model /models/x
# The groups are given by number because the kernel compares numbers: the devices belong to the host's `render` (or
# `video`) group, whose number differs from host to host and from the image's group of that name.
# (Flags alone mean `serve`; other commands are named first: generate, bench, doctor.)
#
# The base is ROCm 7.14.0, which jax-rocm7-plugin 0.12.0 was built against; the host gives the amdgpu driver. To pin it by
# content as well: --build-arg BASE=rocm/dev-ubuntu-24.04:7.14.0-full@sha256:DIGEST, with the digest that
# `docker buildx imagetools inspect rocm/dev-ubuntu-24.04:7.14.0-full` prints.
ARG BASE=rocm/dev-ubuntu-24.04:7.14.0-full

FROM ${BASE} AS python
# Ubuntu 24.04's Python is 3.12. Its archive drops old package versions, so none is pinned here
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
WORKDIR /src
RUN python3 -m venv /opt/jaxpaged && python3 -m venv /opt/build
COPY docker/build.lock docker/rocm.lock docker/
RUN /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r docker/build.lock \
    && /opt/jaxpaged/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r docker/rocm.lock
COPY pyproject.toml README.md LICENSE ./
COPY jaxpaged jaxpaged/
COPY pallas_kernels pallas_kernels/
COPY server server/
RUN /opt/build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/jaxpaged/bin/python -m pip install --no-cache-dir --no-deps dist/*.whl

FROM python
# one folder takes all that is written: downloads, compiled programs, the user's home. Group 0 may write there too, for
# platforms that give a container a user of their own
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /cache --shell /usr/sbin/nologin jaxpaged \
    && { getent group render || groupadd --system render; } \
    && install --directory --owner=10001 --group=0 --mode=2775 /cache
COPY --from=build /opt/jaxpaged /opt/jaxpaged
COPY --chmod=755 docker/entrypoint.sh docker/healthcheck.py /opt/jaxpaged/share/
# LLVM_PATH: where XLA looks for ld.lld. XLA_FLAGS: no command buffers (HIP graphs), which have crashed on ROCm; to try
# them, run with -e XLA_FLAGS=
ENV PATH=/opt/jaxpaged/bin:$PATH \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    PYTHONUNBUFFERED=1 \
    ROCM_PATH=/opt/rocm \
    LLVM_PATH=/opt/rocm/llvm \
    LD_LIBRARY_PATH=/opt/rocm/lib:/opt/rocm/core/lib \
    XLA_FLAGS=--xla_gpu_enable_command_buffer=
WORKDIR /cache
USER 10001
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=4 \
    CMD ["python", "/opt/jaxpaged/share/healthcheck.py"]
ENTRYPOINT ["/opt/jaxpaged/share/entrypoint.sh"]
