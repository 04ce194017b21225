# An image that runs `dp-diffusion`, for Docker and Podman.
#
#   docker build -t dp-diffusion --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" dp-diffusion \
#     --config=digits --workdir=runs/digits
#
# With NVIDIA GPUs: docker build --build-arg EXTRA='jax[cuda13]' ..., and
# docker run --gpus all ... Releases state REVISION as that of the code. Only
# what .dockerignore lists is sent to the build, so no run, with its private/
# folder, comes into the image.
FROM docker.io/library/python:3.12-slim

WORKDIR /opt/dp_diffusion
COPY requirements.txt ./
COPY lock/py312.txt lock/
ARG EXTRA=""
RUN python -m pip install --no-cache-dir --constraint lock/py312.txt -r requirements.txt $EXTRA
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs configs
COPY dp_diffusion dp_diffusion
ARG REVISION=""
RUN DP_DIFFUSION_REVISION="$REVISION" python -m pip install --no-cache-dir --no-deps .

# Any user may run it; compiled steps and decoded images are cached here.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["dp-diffusion"]
CMD ["--help"]
