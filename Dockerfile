# docker build -t robustprobe .
# docker run --rm -v "$PWD:/work" robustprobe run suite.yaml --out results        (add --gpus all for a GPU)
#
# The wheels of torch that pip finds by default run on GPUs too. For the much smaller ones for the CPU alone give the
# index that pytorch.org names for them: --build-arg TORCH_INDEX=URL. Another base image: --build-arg BASE=IMAGE.
ARG BASE=python:3.12-slim
FROM ${BASE}

ARG TORCH_INDEX=""
ARG EXTRAS="hf"

RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.5" "torchvision>=0.20"; fi

COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
# The versions are those of pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "/source[${EXTRAS}]" && rm -r /source && useradd --create-home --uid 1000 robustprobe

USER 1000
WORKDIR /work
ENTRYPOINT ["robustprobe"]
CMD ["--help"]
