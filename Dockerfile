# What every node of a cluster runs: the head, GPU workers and CPU workers alike.
#
#   docker build -t textcam:0.1.0 .
#
# Everything is pinned: Python by its tag, packages by constraints.txt. CUDA comes with torch's wheels, so a GPU node
# needs NVIDIA's driver (for CUDA 13: 580 or newer) and container toolkit and nothing else. For CPU nodes alone the same
# image serves.
FROM python:3.11.14-slim-bookworm

# rsync, openssh-client: `ray up` copies files into the container by rsync, and the head, in its container, reaches the
# workers by both. wget: the health checks that KubeRay runs inside the container. g++: `run: {compile: true}`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray \
    && install --directory --owner=ray --mode=700 /home/ray/.ray

# What is installed from elsewhere, gigabytes of it, in a layer that does not change when our code or pages do: a package
# of the same name without code stands in for ours.
WORKDIR /opt/textcam
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE \
    && pip install --no-cache-dir -c constraints.txt '.[precompute,aws]'

COPY README.md LICENSE ./
COPY store store
COPY textcam textcam
COPY pipelines pipelines
COPY service service
COPY demo demo
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# Nodes talk to each other with a token; without one Ray refuses to start. HOME is named because `ray up` reads it from
# here to know where files go.
ENV HOME=/home/ray \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1

USER ray
WORKDIR /home/ray
CMD ["textcam", "--help"]
