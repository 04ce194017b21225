#!/usr/bin/env bash
# Runs a config on every host of a TPU pod slice (one process per host).
#
#   TPU=my-pod ZONE=us-central2-b CONFIG=configs/cifar10.py \
#     WORKDIR=gs://bucket/cifar10 experiments/launch/tpu_pod.sh [--config.KEY=VALUE ...]
#
# Every host needs a checkout at REPOSITORY (default ~/dp_diffusion) with
# `make .venv/installed-tpu ACCELERATOR=tpu` done, and the datasets.
set -euo pipefail

: "${TPU:?name of the TPU slice}"
: "${ZONE:?zone of the TPU slice}"
: "${CONFIG:?a file of configs/}"
: "${WORKDIR:?a folder that all hosts see, such as gs://bucket/run}"
REPOSITORY="${REPOSITORY:-dp_diffusion}"

arguments=(
  "--config=${CONFIG}"
  "--workdir=${WORKDIR}"
  "--config.distributed.enable=true"
)
if [[ "${WORKDIR}" == *://* ]]; then
  # The secret stays on the host of process 0, beside the checkout.
  secret_dir="${SECRET_DIR:-../dp_diffusion_secrets/${WORKDIR//[^A-Za-z0-9.-]/_}}"
  arguments+=("--config.privacy.secret_dir=${secret_dir}")
fi
arguments+=("$@")

# The command is read again by the shell of each host: quoted for it here.
printf -v quoted '%q ' "${arguments[@]}"
printf -v folder '%q' "${REPOSITORY}"
exec gcloud compute tpus tpu-vm ssh "${TPU}" --zone="${ZONE}" --worker=all \
  --command="cd ${folder} \
    && export JAX_COMPILATION_CACHE_DIR=\"\${HOME}/.cache/dp_diffusion/compiled\" \
    && .venv/bin/python -m dp_diffusion.main ${quoted}"
