# An image of etcd for trials, built like that of muster.
FROM scratch
COPY etcd /etcd
COPY --chown=65532:65532 state /var/lib/etcd
USER 65532:65532
EXPOSE 2379/tcp
ENTRYPOINT ["/etcd", "--data-dir", "/var/lib/etcd/data"]
