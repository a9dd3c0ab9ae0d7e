# The image of markread: the binary on a base that has glibc and no shell, not as root.
#
#   docker build --build-arg MARKREAD_REVISION="$(git rev-parse --short=12 HEAD)" -t markread .
#
# README.md, "Image", says more. Both base images are arguments. The one to build with needs cargo
# and a C compiler; the one to run on needs its glibc or a newer one, libgcc_s and CA certificates.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# What cargo has fetched and compiled stays in the builder's cache, out of the layers.
ENV CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/cache/target
COPY . .
ARG MARKREAD_REVISION=unknown
RUN --mount=type=cache,id=markread,target=/cache,sharing=locked \
    cargo build --locked --release --bin markread && cp /cache/target/release/markread /markread

FROM ${RUNTIME_IMAGE} AS runtime
ARG MARKREAD_REVISION=unknown
LABEL org.opencontainers.image.title="markread" \
      org.opencontainers.image.description="Read state for direct messages, as a service" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${MARKREAD_REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /markread /markread
# All addresses: a container's loopback is nobody else's.
ENV MARKREAD_LISTEN=0.0.0.0:50051 \
    MARKREAD_OPS_LISTEN=0.0.0.0:9464
EXPOSE 50051 9464
# By numbers, so that Kubernetes sees that it is not root.
USER 65532:65532
ENTRYPOINT ["/markread"]
CMD ["serve"]
