package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
)

const (
	// askTimeout bounds one question to an agent.
	askTimeout = 5 * time.Second
	// maxAnswer bounds its answer, well above that of thousands of members.
	maxAnswer = 64 << 20

	// What takes the place of the flags that are not given. The first three are also
	// the forms of keys of the agent, so that agent and commands agree.
	httpAddrVariable      = "MUSTER_HTTP_ADDR"
	httpTokenVariable     = "MUSTER_HTTP_TOKEN"
	httpTokenFileVariable = "MUSTER_HTTP_TOKEN_FILE"
	httpCAFileVariable    = "MUSTER_HTTP_CA_FILE"
	httpCertFileVariable  = "MUSTER_HTTP_CERT_FILE"
	httpKeyFileVariable   = "MUSTER_HTTP_KEY_FILE"
	// agentTLSVariable is set where the agent of this environment has TLS.
	agentTLSVariable = "MUSTER_HTTP_TLS_CERT_FILE"
)

// service is what serves an API that commands ask.
type service struct {
	name    string // in messages
	usual   string // its address by default
	command string // that starts it
}

var (
	agentService     = service{"agent", httpapi.DefaultAddr, "muster agent"}
	registrarService = service{"registrar", host.DefaultAddr, "muster registrar"}
)

// askFlags say which agent or registrar is asked, and how it is spoken to.
type askFlags struct {
	service
	addr, tokenFile           string
	caFile, certFile, keyFile string
}

func (f *askFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.addr, "http", "", "HOST:PORT or https://HOST:PORT of the "+f.name+"'s HTTP API (default $"+httpAddrVariable+" or "+f.usual+")")
	flags.StringVar(&f.tokenFile, "token-file", "", "file of the token that the "+f.name+" wants (default $"+httpTokenFileVariable+", or the token in $"+httpTokenVariable+")")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file of the authorities of the "+f.name+"'s certificate (default $"+httpCAFileVariable+" or the system's)")
	flags.StringVar(&f.certFile, "cert-file", "", "PEM file of a certificate to show, with --key-file (default $"+httpCertFileVariable+")")
	flags.StringVar(&f.keyFile, "key-file", "", "PEM file of its key (default $"+httpKeyFileVariable+")")
}

// agent is one to ask, or a registrar.
type agent struct {
	service
	addr  string      // HOST:PORT
	tls   *tls.Config // nil for plain HTTP
	token driver.Secret
}

// agent works out the agent to ask, from the flags, else the environment, else the
// default.
func (f askFlags) agent() (agent, error) {
	addr, secure, err := f.address(f.addr)
	if err != nil {
		return agent{}, err
	}
	a := agent{service: f.service, addr: addr}
	files := driver.TLS{
		CAFile:   cmp.Or(f.caFile, os.Getenv(httpCAFileVariable)),
		CertFile: cmp.Or(f.certFile, os.Getenv(httpCertFileVariable)),
		KeyFile:  cmp.Or(f.keyFile, os.Getenv(httpKeyFileVariable)),
	}
	switch {
	case secure || files.Enabled() && !strings.HasPrefix(f.addr, "http://"):
		if a.tls, err = files.ClientConfig(); err != nil {
			return agent{}, usageError(flagNames(err))
		}
	case f.caFile != "" || f.certFile != "" || f.keyFile != "":
		return agent{}, usageError(fmt.Errorf("--http: %q: plain HTTP beside --ca-file or --cert-file; write https://%s", f.addr, addr))
	}
	if f.tokenFile != "" {
		a.token, err = driver.Secret("").Or(f.tokenFile)
	} else {
		a.token, err = driver.Secret(os.Getenv(httpTokenVariable)).Or(os.Getenv(httpTokenFileVariable))
	}
	if err != nil {
		return agent{}, usageError(fmt.Errorf("--token-file: %w; name a file that holds the token", err))
	}
	if host, _, _ := net.SplitHostPort(addr); a.token != "" && a.tls == nil && !loopback(host) {
		return agent{}, usageError(fmt.Errorf("--http: %q: the token would travel in the clear; write https://%s", addr, addr))
	}
	return a, nil
}

// flagNames has errors about the files of TLS speak of flags.
func flagNames(err error) error {
	return errors.New(strings.NewReplacer("tls.ca_file", "--ca-file", "tls.cert_file", "--cert-file", "tls.key_file", "--key-file").Replace(err.Error()))
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// address is the one to ask: that of the flag, else the environment's, else the default;
// and whether it is asked over TLS.
func (s service) address(flag string) (addr string, secure bool, err error) {
	name, addr := "--http", flag
	if addr == "" {
		name, addr = httpAddrVariable, os.Getenv(httpAddrVariable)
		secure = os.Getenv(agentTLSVariable) != ""
	}
	if addr == "" {
		return s.usual, secure, nil
	}
	given := addr
	if rest, ok := strings.CutPrefix(addr, "https://"); ok {
		addr, secure = strings.TrimSuffix(rest, "/"), true
	} else if rest, ok := strings.CutPrefix(addr, "http://"); ok {
		addr, secure = strings.TrimSuffix(rest, "/"), false
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" || port == "0" || strings.ContainsAny(host, "/@") {
		return "", false, usageError(fmt.Errorf("%s: %q: not the address of %s; write HOST:PORT, as %s, or https://HOST:PORT", name, hidden(given), s.one(), s.usual))
	}
	// What an agent listens on need not be what can be dialled.
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip == netip.IPv4Unspecified() {
		host = "127.0.0.1"
	} else if err == nil && ip == netip.IPv6Unspecified() {
		host = "::1"
	}
	return net.JoinHostPort(host, port), secure, nil
}

// one is the service with its article.
func (s service) one() string {
	if s.name == agentService.name {
		return "an agent"
	}
	return "a " + s.name
}

// hidden is an address without what may be a password.
func hidden(addr string) string {
	if i := strings.LastIndexByte(addr, '@'); i >= 0 {
		return "[redacted]" + addr[i:]
	}
	return addr
}

// ask reads path of the HTTP API of an agent into value and returns the answer as it
// came, with the fields that this program does not know.
func (a agent) ask(ctx context.Context, path string, value any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	u := &url.URL{Scheme: "http", Host: a.addr, Path: path}
	if a.tls != nil {
		u.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if a.token != "" {
		request.Header.Set("Authorization", "Bearer "+string(a.token))
	}
	// No proxy stands between a command and its agent.
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: a.tls}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport: transport,
		// An agent sends nobody elsewhere. What answers is none, and gets no token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, a.unanswered(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the answer of the %s at %s broke off: %s", a.name, a.addr, cause(err))
	}
	if response.StatusCode != http.StatusOK {
		return nil, a.refused(response, path, body)
	}
	if err := json.Unmarshal(body, value); err != nil {
		return nil, fmt.Errorf("what answers at %s is no %s: %s is not what was expected: %v; name the %s with --http", a.addr, a.name, path, err, a.name)
	}
	return bytes.TrimSpace(body), nil
}

// unanswered explains that there was no answer.
func (a agent) unanswered(err error) error {
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("the certificate of the %s at %s is for %s, and not for %s; name a host that it is for with --http, or have it issued for this one as well",
			a.name, a.addr, pki.Hosts(name.Certificate), name.Host)
	case errors.As(err, &cert):
		return fmt.Errorf("the certificate of the %s at %s is not believed: %w; name its authority with --ca-file", a.name, a.addr, cert.Err)
	case a.tls != nil && (errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response")):
		return fmt.Errorf("the %s at %s speaks no TLS; write --http http://%s, without --ca-file", a.name, a.addr, a.addr)
	}
	return unansweredError{fmt.Errorf("no %s answers at %s: %s; start one with %s or name it with --http", a.name, a.addr, cause(err), a.command)}
}

// unansweredError says that nobody was there to answer.
type unansweredError struct{ error }

// refused explains an answer that is none to the question.
func (a agent) refused(response *http.Response, path string, body []byte) error {
	var told httpapi.Error
	switch {
	case response.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTP request to an HTTPS server")):
		return fmt.Errorf("the %s at %s speaks TLS; write --http https://%s, and --ca-file for its authority", a.name, a.addr, a.addr)
	case json.Unmarshal(body, &told) != nil || told.Error == "":
		return fmt.Errorf("what answers at %s is no %s: %s for %s; name the %s with --http", a.addr, a.name, response.Status, path, a.name)
	case response.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("the %s at %s: %s; name its file with --token-file or %s", a.name, a.addr, told.Error, httpTokenFileVariable)
	case response.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the %s at %s: %s; name it with --cert-file and --key-file", a.name, a.addr, told.Error)
	case response.StatusCode == http.StatusNotFound && strings.HasPrefix(told.Error, "no such path"):
		return fmt.Errorf("%w: %s", errNoSuchPath, told.Error)
	}
	return errors.New(told.Error)
}

// errNoSuchPath is of an API that is another one than the question is for.
var errNoSuchPath = errors.New("it serves another API")

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
