# syntax=docker/dockerfile:1

# Pin both by digest where builds have to be repeatable to the byte:
#   docker build --build-arg GO_IMAGE=golang:1.26.8-bookworm@sha256:… .
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

# The compiler runs on the machine's own architecture, whatever it builds for.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod \
    go mod download
COPY cmd cmd
COPY docs/docs.go docs/
COPY migrations migrations
COPY pkg pkg
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=development
ARG REVISION=unknown
# The tags leave out MessagePack in Gin and the request browser of gRPC, which nobody reaches.
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -tags=nomsgpack,grpcnotrace \
      -ldflags="-s -w -buildid= -X github.com/keywarden/keywarden/pkg/app.linkedVersion=$VERSION -X github.com/keywarden/keywarden/pkg/app.linkedCommit=$REVISION" \
      -o /out/ ./cmd/keywarden ./cmd/usersvc ./cmd/productsvc

# The sample backends, for trying the gateway: --target samples
FROM ${BASE_IMAGE} AS samples
LABEL org.opencontainers.image.title="Keywarden sample backends" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --link --from=build /out/usersvc /out/productsvc /usr/local/bin/
USER 65532:65532
EXPOSE 8081 8082
ENTRYPOINT ["/usr/local/bin/usersvc"]

# Keywarden itself. Nothing is written to the root file system; the data directory is
# for what should outlive a container, and a volume there is optional.
FROM ${BASE_IMAGE} AS keywarden
COPY --link --from=build /out/keywarden /usr/local/bin/keywarden
ENV KEYWARDEN_DATA_DIR=/var/lib/keywarden
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["/usr/local/bin/keywarden", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/keywarden"]
CMD ["serve"]
# Last, since they differ from build to build.
ARG VERSION=development
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=https://github.com/keywarden/keywarden
LABEL org.opencontainers.image.title="Keywarden" \
      org.opencontainers.image.description="API keys, users and a gateway behind one door" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
