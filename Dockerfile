# multi-enid and the plugins that it installs, static, with the licences of their code. No shell, no libc, no package.
#
#   make image                   by buildah, from the binaries of `make build`, offline: they take the first stage's place
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v1.0.0 --build-arg COMMIT="$(git rev-parse HEAD)" .
#
# It runs as root: it writes the host's /opt/cni/bin, which is root's, and reads records that only root may read. What it may do
# besides is set by its DaemonSets, by capability.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=""
WORKDIR /src
COPY . .
RUN GOOS=linux GOARCH=$TARGETARCH make build VERSION=$VERSION COMMIT="$COMMIT" && make licenses && \
    mkdir /out && cp -r bin/multi-eni bin/eni-ipam bin/multi-enid bin/licenses /out/

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="multi-eni-cni" \
      org.opencontainers.image.description="ENIs and SR-IOV devices for pods by the name of their NodeENI: the daemon and controller multi-enid, and the CNI plugins multi-eni and eni-ipam" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
# multi-enid install takes the plugins from its own folder. licenses/ has LICENSE and THIRD_PARTY_NOTICES.
COPY --from=build /out/ /
ENTRYPOINT ["/multi-enid"]
