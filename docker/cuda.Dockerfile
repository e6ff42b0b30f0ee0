# Index and query on an NVIDIA GPU: ONNX Runtime with CUDA instead of the one for CPUs, no torch.
#
#   docker build -f docker/cuda.Dockerfile -t concepthash:cuda .
#   docker run --rm --gpus all -v "$PWD:/data" concepthash:cuda bench cub.chb --verify
#
# With TensorRT, to build and run engines: --build-arg EXTRAS=trt, several GB more. The host needs
# a driver for CUDA 13 (580 or newer) and the NVIDIA Container Toolkit. Not for a Jetson: see
# docs/edge/jetson.md.
#
# Not built here, for want of a Docker engine, and not run on hardware; the steps of Python were
# run in a virtual environment.

ARG BASE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/chash && /opt/chash/bin/pip wheel --no-cache-dir --no-deps -w /wheels .
ARG EXTRAS=""
# Both packages of ONNX Runtime write the same files, so the one for CPUs has to go first.
RUN /opt/chash/bin/pip install --no-cache-dir "$(ls /wheels/*.whl)${EXTRAS:+[$EXTRAS]}" cuda-bindings \
    && /opt/chash/bin/pip uninstall --yes onnxruntime \
    && /opt/chash/bin/pip install --no-cache-dir onnxruntime-gpu \
    && /opt/chash/bin/python -c "from concepthash.runtime import native; assert native.path() != 'numpy'"

FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/chash /opt/chash
ENV PATH=/opt/chash/bin:$PATH
# Ubuntu 24.04 comes with a user of number 1000.
USER 1000
WORKDIR /data
ENTRYPOINT ["chash"]
CMD ["doctor"]
