# docs/docker.md says how it is used.
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY engine/ engine/
COPY schemas/ schemas/
COPY connectors/ connectors/
COPY clients/ clients/
COPY docs/language.md docs/language.md
RUN python -m venv /opt/connect \
 && /opt/connect/bin/pip install --constraint constraints.txt '.[postgres,aws]' \
 && /opt/connect/bin/pip uninstall --yes pip

FROM ${PYTHON}
LABEL org.opencontainers.image.title="DaxGO Connect" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/connect /opt/connect
# Nobody of the host has this number. /data is for the SQLite store; all else can be read-only.
RUN install -d -o 10001 -g 10001 /data /project
ENV PATH=/opt/connect/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CONNECT_PROJECT=/project \
    CONNECT_STORE=sqlite:////data/connect.db \
    CONNECT_AUDIT=-
USER 10001:10001
WORKDIR /project
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["connect"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
