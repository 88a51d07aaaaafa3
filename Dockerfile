# Processes of a run, for scripts/kubernetes.yaml, jobset.yaml and trainjob.yaml.
#   docker build --tag registry.example.org/abs-dssp:latest .
# For NVIDIA GPUs: --build-arg EXTRAS=cluster,examples,cuda12
FROM python:3.11-slim-bookworm

ARG EXTRAS=cluster,examples
WORKDIR /abs_dssp
# The libraries first: a change of the code alone does not install them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY abs_dssp/__init__.py abs_dssp/__init__.py
RUN pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]"
COPY abs_dssp abs_dssp
COPY experiments experiments
RUN pip install --no-cache-dir --no-deps --editable .

ENV PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["python"]
CMD ["experiments/train.py", "--help"]
