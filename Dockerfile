# MNM-RL for CPUs, with its commands, its environments and its kernels compiled.
# docs/installing.md says how to use it.

FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel --outdir /wheel

FROM python:3.12-slim
COPY constraints.txt /tmp/
COPY --from=wheel /wheel /wheel
# PyTorch's own index has it without CUDA, which is gigabytes. Such a build counts as newer, so
# pip takes it where that index is named.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /wheel/*.whl)[train]"
RUN python -m mnm_rl.compile
RUN useradd --create-home user
USER user
WORKDIR /home/user
CMD ["mnm-train", "--help"]
