# MNM-RL for CPUs, with its commands, its environments and its kernels compiled. docs/installing.md says how to use it.

FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel --outdir /wheel

FROM python:3.12-slim
# PyTorch without CUDA, from its own index: a tenth of the size.
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /wheel/*.whl)[train]"
RUN python -m mnm_rl.compile
RUN useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
CMD ["mnm-train", "--help"]
