# docker build -t advdef . && docker run --rm advdef demo
# --build-arg PIP_OPTIONS="..." passes options to pip; docs/installing.md says what for.

FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m pip install --no-cache-dir --constraint constraints.txt build \
    && python -m build --wheel --outdir /wheel .

FROM python:3.12-slim
ARG PIP_OPTIONS=""
COPY --from=build /wheel /wheel
RUN python -m pip install --no-cache-dir ${PIP_OPTIONS} /wheel/*.whl \
    && useradd --create-home advdef \
    && mkdir /work \
    && chown advdef /work
USER advdef
WORKDIR /work
ENTRYPOINT ["advdef"]
CMD ["--help"]
