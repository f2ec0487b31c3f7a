# syntax=docker/dockerfile:1

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY cmd cmd
COPY docs docs
COPY migrations migrations
COPY pkg pkg
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/ ./cmd/keywarden ./cmd/usersvc ./cmd/productsvc

# The sample backends, for trying the gateway: --target samples
FROM gcr.io/distroless/static-debian12:nonroot AS samples
COPY --from=build /out/usersvc /out/productsvc /usr/local/bin/
USER nonroot:nonroot

FROM gcr.io/distroless/static-debian12:nonroot
LABEL org.opencontainers.image.title="Keywarden" \
      org.opencontainers.image.description="API keys, users and a gateway behind one door" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/keywarden /usr/local/bin/keywarden
USER nonroot:nonroot
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/keywarden", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/keywarden"]
CMD ["serve"]
