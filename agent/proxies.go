package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/musterhq/muster/agent/proxy"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
)

// proxies are the ports that follow the master.
type proxies []*proxy.Proxy

// listenProxies opens the ports of the section proxy. The error says where what is wrong was given.
func listenProxies(cfg *config.Config, log *slog.Logger) (proxies, error) {
	var all proxies
	for i, c := range cfg.Proxy {
		p, err := proxy.Listen(proxy.Config{
			Addr: c.Listen, App: c.App, MaxConnections: c.MaxConnections, DialTimeout: c.DialTimeout, Logger: log,
		})
		if err != nil {
			all.close()
			return nil, cfg.Locate(&driver.ConfigError{
				Key: fmt.Sprintf("proxy[%d].listen", i), Value: c.Listen, Problem: err.Error(), Hint: "name an address of this host and a free port",
			})
		}
		all = append(all, p)
	}
	return all, nil
}

// serve forwards to the master that n knows, until stop is called.
func (all proxies) serve(n *node.Node) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	for _, p := range all {
		serving.Go(func() { p.Serve(ctx, proxy.MasterOf(n, p.Status().App), all...) })
	}
	return func() {
		cancel()
		serving.Wait()
	}
}

func (all proxies) close() {
	for _, p := range all {
		p.Close()
	}
}

func (all proxies) status() []httpapi.Proxy {
	var out []httpapi.Proxy
	for _, p := range all {
		s := p.Status()
		shown := httpapi.Proxy{
			Listen: s.Addr, To: config.ProxyToMaster, App: s.App,
			Connections: s.Connections, MaxConnections: s.Max, Accepted: s.Accepted, Forwarded: s.Forwarded,
			Refused: map[string]uint64{
				"full": s.Refused.Full, "no_master": s.Refused.NoMaster, "no_address": s.Refused.NoAddress, "dial_failed": s.Refused.Failed,
			},
			SentBytes: s.Sent, ReceivedBytes: s.Received,
		}
		if m := s.Master; m != nil {
			shown.Master, shown.Term, shown.Addr = m.NodeID, m.Term, m.Addr
		}
		out = append(out, shown)
	}
	return out
}
