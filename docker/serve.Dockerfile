# Serve a gallery over HTTP on a CPU: `chash serve`, without torch.
#
#   docker build -f docker/serve.Dockerfile -t concepthash:serve .
#   docker run --rm -p 127.0.0.1:8000:8000 -e CHASH_TOKEN -v "$PWD:/data" concepthash:serve birds.chg
#
# CHASH_TOKEN must be set: inside, it listens on all addresses. The gallery and its bundle lie in the
# folder that is mounted, which must be writable for user 1000, or say --user "$(id -u):$(id -g)".
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
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[serve]" \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 chash \
    && python -c "from concepthash.runtime import native; assert native.path() != 'numpy'"
USER 1000
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["chash", "serve", "--host", "0.0.0.0"]
