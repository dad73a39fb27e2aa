# docker build -t mini-rproxy .                     one static binary and nothing else
# docker build -t mini-rproxy --target plugins .    on a libc, because plugins are loaded with dlopen
#
# docker run -p 8080:8080 -v ./config.yaml:/config.yaml:ro --read-only mini-rproxy

# Without a configuration file:
# docker run -p 8080:8080 --read-only mini-rproxy -route /=app:9001
#
# Dependencies are compiled once: the builder (BuildKit, or Podman's) keeps them in caches, from one change to the next.

# An alpine image (rust:1-alpine) makes a smaller static binary, because musl is smaller than glibc.
ARG BUILDER=rust:1-slim-bookworm

FROM ${BUILDER} AS build-static
# mini-rproxy is the one without TLS.
ARG FORM=mini-rproxy-tls
WORKDIR /build
COPY . .
# Times of files tell cargo what has changed, and those that come from outside may be anything.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target,sharing=locked \
    find . -name '*.rs' -not -path './target/*' -exec touch {} + && \
    sh examples/static.sh && cp "target/static/$FORM" /mini-rproxy

FROM ${BUILDER} AS build-plugins
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target,sharing=locked \
    find . -name '*.rs' -not -path './target/*' -exec touch {} + && \
    cargo build --locked --release --bin mini-rproxy && cp target/release/mini-rproxy /mini-rproxy && mkdir /plugins

# Plugins are mounted: -v ./plugins:/plugins:ro
FROM debian:stable-slim AS plugins
COPY --from=build-plugins /mini-rproxy /mini-rproxy
COPY --from=build-plugins /plugins /plugins
USER 65534:65534
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s CMD ["/mini-rproxy", "-healthcheck"]
ENTRYPOINT ["/mini-rproxy"]
CMD ["-config", "/config.yaml", "-plugindir", "/plugins"]

# An orchestrator asks for GET /health itself: its httpGet probe needs nothing in the image.
FROM scratch
COPY --from=build-static /mini-rproxy /mini-rproxy
USER 65534:65534
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s CMD ["/mini-rproxy", "-healthcheck"]
ENTRYPOINT ["/mini-rproxy"]
CMD ["-config", "/config.yaml"]
