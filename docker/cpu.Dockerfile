# Index and query on a CPU: ONNX Runtime and the native kernel, no torch.
#
#   docker build -f docker/cpu.Dockerfile -t concepthash .
#   docker run --rm -v "$PWD:/data" concepthash index photos --model cub.chb --out cub.chg
#
# The folder that is mounted must be writable for user 1000, or say --user "$(id -u):$(id -g)".
# Not built here, for want of a Docker engine; each step was run in a virtual environment.

FROM python:3.11-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY --from=build /wheels /wheels
# A kernel that was not built would be replaced by numpy without an error, hence the last check.
RUN pip install --no-cache-dir /wheels/*.whl \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 chash \
    && python -c "from concepthash.runtime import native; assert native.path() != 'numpy'"
USER 1000
WORKDIR /data
ENTRYPOINT ["chash"]
CMD ["doctor"]
