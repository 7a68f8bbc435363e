# The program in a small image:
#   docker build -t cvxq:0.1.0 .
#   docker run --rm -v /models:/models cvxq:0.1.0 quantize /models/llama --bits 3 -o /models/llama-3bit
# and for GPUs, with NVIDIA's libraries of CUDA 13 (the host has the driver and its container toolkit):
#   docker build -t cvxq:0.1.0-gpu --target gpu .
#   docker run --rm --gpus 1 -v /models:/models cvxq:0.1.0-gpu quantize /models/llama --bits 3 -o /models/llama-3bit
# It runs as a user without rights (10001), needs no writable root, and answers /healthz and /readyz
# where `--metrics` is given: health checks are those of whatever runs it.

FROM debian:12 AS build
WORKDIR /src
COPY scripts/install_packages.sh scripts/
RUN scripts/install_packages.sh
COPY . .
RUN cmake --preset release -DCVXQ_BUILD_TESTS=OFF -DCVXQ_BUILD_BENCH=OFF \
    && cmake --build --preset release --target cvxq \
    && cmake --install build/release --prefix /opt/cvxq --strip

FROM debian:12-slim AS runtime
# Exactly what the program is linked with (tests/deploy/image_test.py), and whom to trust beyond that
# machine: certificates of object stores.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
      ca-certificates \
      libabsl20220623 \
      libc6 \
      libcurl4 \
      libdnnl2 \
      libgcc-s1 \
      libgomp1 \
      libgrpc++1.51 \
      libgrpc29 \
      libhiredis0.14 \
      libonig5 \
      libprometheus-cpp-core1.0 \
      libprotobuf32 \
      libpugixml1v5 \
      libsqlite3-0 \
      libssl3 \
      libstdc++6 \
      libutf8proc2 \
      zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/cvxq/bin/cvxq /usr/local/bin/cvxq
USER 10001:10001
WORKDIR /
ENTRYPOINT ["/usr/local/bin/cvxq"]
CMD ["--help"]


FROM nvidia/cuda:13.0.1-devel-ubuntu22.04 AS cuda

FROM build AS build-gpu
COPY --from=cuda /usr/local/cuda /usr/local/cuda
ENV PATH=/usr/local/cuda/bin:$PATH
RUN cmake --preset cuda -DCVXQ_BUILD_TESTS=OFF -DCVXQ_BUILD_BENCH=OFF \
    && cmake --build --preset cuda --target cvxq \
    && cmake --install build/cuda --prefix /opt/cvxq-gpu --strip

FROM runtime AS gpu
COPY --from=cuda \
    /usr/local/cuda/lib64/libcublas.so.13 \
    /usr/local/cuda/lib64/libcublasLt.so.13 \
    /usr/local/cuda/lib64/libcusolver.so.12 \
    /usr/local/cuda/lib64/libcusparse.so.12 \
    /usr/local/cuda/lib64/libnvJitLink.so.13 \
    /usr/local/lib/
COPY --from=build-gpu /opt/cvxq-gpu/bin/cvxq /usr/local/bin/cvxq
ENV LD_LIBRARY_PATH=/usr/local/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# What `docker build` makes where no target is named.
FROM runtime
