package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

const (
	// askTimeout bounds one question to an agent.
	askTimeout = 5 * time.Second
	// maxAnswer bounds its answer, well above that of thousands of members.
	maxAnswer = 64 << 20
	// httpAddrVariable names the agent where --http does not. It is also the form
	// of the key http.addr, so that agent and commands agree.
	httpAddrVariable = "MUSTER_HTTP_ADDR"
)

// addHTTPFlag adds --http, the address of the agent to ask.
func addHTTPFlag(cmd *cobra.Command, addr *string) {
	cmd.Flags().StringVar(addr, "http", "", "HOST:PORT of the agent's HTTP API (default $"+httpAddrVariable+" or "+httpapi.DefaultAddr+")")
}

// agentAddr is the address to ask: that of the flag, else the environment's, else
// the default.
func agentAddr(flag string) (string, error) {
	name, addr := "--http", flag
	if addr == "" {
		name, addr = httpAddrVariable, os.Getenv(httpAddrVariable)
	}
	if addr == "" {
		return httpapi.DefaultAddr, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" || port == "0" {
		return "", usageError(fmt.Errorf("%s: %q: not the address of an agent; write HOST:PORT, as %s", name, addr, httpapi.DefaultAddr))
	}
	// What an agent listens on need not be what can be dialled.
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip == netip.IPv4Unspecified() {
		host = "127.0.0.1"
	} else if err == nil && ip == netip.IPv6Unspecified() {
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

// ask reads path of the HTTP API of the agent at addr into value and returns the
// answer as it came, with the fields that this program does not know.
func ask(ctx context.Context, addr, path string, value any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: addr, Path: path}).String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	// No proxy stands between a command and its agent.
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("no agent answers at %s: %s; start one with muster agent or name it with --http", addr, cause(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the answer of the agent at %s broke off: %s", addr, cause(err))
	}
	if response.StatusCode != http.StatusOK {
		var told httpapi.Error
		if json.Unmarshal(body, &told) != nil || told.Error == "" {
			return nil, fmt.Errorf("what answers at %s is no agent: %s for %s; name the agent with --http", addr, response.Status, path)
		}
		return nil, errors.New(told.Error)
	}
	if err := json.Unmarshal(body, value); err != nil {
		return nil, fmt.Errorf("what answers at %s is no agent: %s is not what was expected: %v; name the agent with --http", addr, path, err)
	}
	return bytes.TrimSpace(body), nil
}

// cause is the innermost reason of a failed request, without the address and the
// URL that those around it repeat.
func cause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("nothing was heard for %v", askTimeout)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}
