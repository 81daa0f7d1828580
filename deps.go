//go:build deps

package muster

import (
	_ "github.com/hashicorp/memberlist"
	_ "github.com/hashicorp/serf/coordinate"
	_ "go.etcd.io/etcd/client/v3"
	_ "github.com/hashicorp/raft"
	_ "github.com/hashicorp/raft-boltdb/v2"
	_ "github.com/spf13/viper"
	_ "github.com/spf13/cobra"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/testutil"
	_ "go.uber.org/goleak"
	_ "pgregory.net/rapid"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/fsnotify/fsnotify"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/sync/errgroup"
	_ "go.yaml.in/yaml/v3"
	_ "github.com/go-viper/mapstructure/v2"
	_ "github.com/hashicorp/go-sockaddr"
	_ "google.golang.org/grpc"
	_ "github.com/hashicorp/go-hclog"
	_ "github.com/miekg/dns"
)
