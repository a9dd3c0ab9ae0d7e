# The image of markread: the binary on a base that has glibc and no shell, not as root.
#
#   docker build --build-arg MARKREAD_REVISION="$(git rev-parse --short=12 HEAD)" -t markread .
#
# Both base images are arguments (docs/production.md). The build image needs cargo and a C compiler;
# the runtime image needs the same glibc or a newer one, libgcc_s and CA certificates. For a release name
# both by digest (docs/supply-chain.md).
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# cargo's downloads and build results stay in the builder's cache, not in a layer.
ENV CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/cache/target
COPY . .
ARG MARKREAD_REVISION=unknown
RUN --mount=type=cache,id=markread,target=/cache,sharing=locked \
    tests/supply/release && cp /cache/target/reproducible/release/markread /markread

FROM ${RUNTIME_IMAGE} AS runtime
ARG MARKREAD_REVISION=unknown
LABEL org.opencontainers.image.title="markread" \
      org.opencontainers.image.description="Read state for direct messages, as a service" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${MARKREAD_REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /markread /markread
# All addresses: a container's loopback cannot be reached from outside.
ENV MARKREAD_LISTEN=0.0.0.0:50051 \
    MARKREAD_OPS_LISTEN=0.0.0.0:9464
EXPOSE 50051 9464
# Numeric, so that Kubernetes can verify that it is not root.
USER 65532:65532
ENTRYPOINT ["/markread"]
CMD ["serve"]
