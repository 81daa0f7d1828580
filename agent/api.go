package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/tlsfiles"
)

// watchTLS logs what becomes of the API's certificate, until stop is called.
func watchTLS(options httpapi.Options, log *slog.Logger) (stop func()) {
	if options.TLS == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() { options.TLS.Watch(ctx, log.With("use", "http")) })
	return func() {
		cancel()
		watcher.Wait()
	}
}

// listenedAddr is an address as it was configured, with the port that was bound to. What
// a listener says of 0.0.0.0 is [::], which an operator does not find in the configuration.
func listenedAddr(configured string, l net.Listener) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, errBound := net.SplitHostPort(l.Addr().String())
	if err != nil || errBound != nil {
		return l.Addr().String()
	}
	return net.JoinHostPort(host, port)
}

// listen opens the API's port, as h has it. An error says where cfg was given what is wrong.
func listen(cfg *config.Config, h config.HTTP) (net.Listener, httpapi.Options, error) {
	options := httpapi.Options{ClientCertificates: h.TLS.CAFile != ""}
	if h.Token != "" || h.TokenFile != "" {
		options.Token = httpapi.TokenOf(h.Token, h.TokenFile)
		options.Sessions = new(httpapi.Sessions)
	}
	if h.TLS.Enabled() {
		files := h.TLS.Files()
		live, err := tlsfiles.Follow(files, tlsfiles.Contents.Server)
		if err != nil {
			return nil, options, invalid(cfg.Locate(inSection("http", err)))
		}
		options.TLS = live
	}
	listener, err := net.Listen("tcp", h.Addr)
	if err != nil {
		return nil, options, cfg.Locate(fmt.Errorf("http.addr: %q: %w; name an address of this host and a free port", h.Addr, err))
	}
	// The configuration was checked by its text. Here it is by where it has led, for a
	// host whose localhost is something else.
	a, ok := listener.Addr().(*net.TCPAddr)
	local := ok && a.IP.IsLoopback()
	if !local && (options.TLS == nil || options.Token == nil) {
		listener.Close()
		return nil, options, invalid(cfg.Locate(fmt.Errorf("http.addr: %q: leads to %s, beyond this host; configure http.tls and http.token_file, or write 127.0.0.1",
			h.Addr, listener.Addr())))
	}
	options.LocalNames = local && options.Token == nil
	listener = httpapi.Bounded(listener)
	if options.TLS != nil {
		listener = tls.NewListener(listener, &tls.Config{
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return options.TLS.Current(), nil },
		})
	}
	return listener, options, nil
}
