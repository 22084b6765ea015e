# What every node of a cluster runs: the head, GPU workers and CPU workers alike.
#
#   docker build -t textcam:0.1.0 .
#
# Everything is pinned: Python by its tag, packages by constraints.txt. CUDA comes with torch's wheels, so a GPU node
# needs NVIDIA's driver and container toolkit and nothing else. For CPU nodes alone the same image serves.
FROM python:3.11.14-slim-bookworm

# wget: the health checks that KubeRay runs inside the container.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

WORKDIR /opt/textcam
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY store store
COPY textcam textcam
COPY pipelines pipelines
COPY service service
COPY demo demo
RUN pip install --no-cache-dir -c constraints.txt '.[precompute]'

# Nodes talk to each other with a token; without one Ray refuses to start.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1

USER ray
WORKDIR /home/ray
CMD ["textcam", "--help"]
