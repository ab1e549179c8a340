# Polycast and its bridge in a small image that runs as nobody.
#
#   docker build -t polycast .
#   docker run --rm -p 1883:1883 -p 61613:61613 -p 8080:8080 -v polycast-data:/var/lib/polycast polycast
#
# The image listens on every address of the container, so it does not start before it is told who may come in: mount a
# configuration at /etc/polycast/polycast.toml (docs/security.md), or let everyone in with
# `-e POLYCAST_SECURITY__ANONYMOUS=everywhere`.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock clippy.toml rustfmt.toml ./
COPY protocols protocols
COPY broker broker
COPY bridge bridge
COPY bench bench
COPY tests tests
COPY docs docs
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    cargo build --release --locked -p broker --bin polycast -p bridge --bin polycast-bridge \
    && install -D -t /out/usr/local/bin target/release/polycast target/release/polycast-bridge \
    && install -d /out/var/lib/polycast /out/var/lib/polycast-bridge

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/usr/local/bin/ /usr/local/bin/
COPY --from=build --chown=nonroot:nonroot /out/var/lib/ /var/lib/
COPY docker/image.toml /etc/polycast/polycast.toml
ENV POLYCAST_CONFIG=/etc/polycast/polycast.toml \
    POLYCAST_BRIDGE_CONFIG=/etc/polycast/bridge.toml
USER nonroot
WORKDIR /var/lib/polycast
VOLUME /var/lib/polycast
EXPOSE 1883 61613 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["polycast", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["polycast"]
CMD ["serve"]
