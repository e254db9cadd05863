# The image of uproxy.
#
#   docker build -t uproxy .
#
# Without privileges, Services on loopback addresses of the container's own network. In a
# Kubernetes Pod that is a sidecar: the Pod's other containers reach 127.96.x.y.
#
#   docker run --rm -v "$PWD/examples:/manifests:ro" uproxy run -f /manifests/echo.yaml
#
# For the node: as root, because only root's processes get added capabilities, with these two
# and no others. The manifests must be readable by everybody: root without CAP_DAC_OVERRIDE
# has no more right to them.
#
#   docker run --rm --network host --user 0 \
#       --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_BIND_SERVICE \
#       -v "$PWD/examples:/manifests:ro" uproxy run -f /manifests/echo.yaml
#
# `deploy/image/build` builds it where no registry of images is at hand; `deploy/image/try` runs it in
# these ways.
#
# What a killed container has left: the same, with `cleanup` in the place of `run ...`.

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
# For the native relay.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/run.txt ./requirements/
RUN python -m venv /opt/uproxy \
    && /opt/uproxy/bin/pip install --no-cache-dir --disable-pip-version-check \
        --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY uproxy ./uproxy
RUN /opt/uproxy/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/uproxy/bin/pip uninstall --yes --quiet setuptools pip
# Two thirds of all that are the client's models and API classes, which it imports when they are asked for,
# and uproxy asks for credentials alone.
RUN cd /opt/uproxy/lib/python3*/site-packages/kubernetes \
    && find . -path '*/client/models/*' ! -path '*/models/__init__.py' -type f -delete \
    && find . -path '*/client/api/*' ! -path '*/api/__init__.py' -type f -delete \
    && find . -name '*_test.py*' -delete \
    && /opt/uproxy/bin/python -c 'import kubernetes.aio.client as client, kubernetes.aio.config.kube_config; \
import kubernetes.aio.config.incluster_config; client.Configuration()'

FROM ${PYTHON_IMAGE}
# What the steering runs: ip, iptables, ipset. nf_tables it programs by netlink; whoever wants to look uses the node's nft.
RUN apt-get update \
    && apt-get install -y --no-install-recommends iproute2 iptables ipset \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/uproxy /opt/uproxy
ENV PATH=/opt/uproxy/bin:$PATH
USER 65532:65532
ENTRYPOINT ["uproxy"]
