# One target an image: docker build --target operator|sidecar|worker .
# Built for amd64 and arm64 by cross-compiling; each image is a static binary
# and the authorities' certificates, nothing else. `make images` writes the same
# images without a container engine.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/operator . \
 && go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/sidecar ./sidecar \
 && go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/worker ./worker

FROM scratch AS operator
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/operator /operator
USER 65532:65532
ENTRYPOINT ["/operator"]

FROM scratch AS sidecar
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/sidecar /sidecar
# ruleset.UID: what this user sends is not captured.
USER 14014:14014
ENTRYPOINT ["/sidecar"]

FROM scratch AS worker
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/worker /worker
USER 65532:65532
ENTRYPOINT ["/worker"]
