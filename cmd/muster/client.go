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
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

const (
	// askTimeout bounds one question to an agent.
	askTimeout = 5 * time.Second
	// maxAnswer bounds its answer, well above that of thousands of members.
	maxAnswer = 64 << 20

	// What takes the place of the flags that are not given. None of them configures an
	// agent: both may be used in one shell.
	agentVariable          = "MUSTER_AGENT"
	agentTokenVariable     = "MUSTER_AGENT_TOKEN"
	agentTokenFileVariable = "MUSTER_AGENT_TOKEN_FILE"
	agentCAFileVariable    = "MUSTER_AGENT_CA_FILE"
	agentCertFileVariable  = "MUSTER_AGENT_CERT_FILE"
	agentKeyFileVariable   = "MUSTER_AGENT_KEY_FILE"
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
	addr, file, tokenFile     string
	caFile, certFile, keyFile string
}

func (f *askFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.addr, "agent", "", "HOST:PORT or https://HOST:PORT of the "+f.name+"'s HTTP API (default $"+agentVariable+" or "+f.usual+")")
	f.addAccessTo(cmd)
}

// addAccessTo adds all flags but --agent.
func (f *askFlags) addAccessTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", "", "YAML file of the "+f.name+" to ask, for its address, token and certificate (default $"+fileVariable+" unless $"+agentVariable+" is set)")
	flags.StringVar(&f.tokenFile, "token-file", "", "file of the token that the "+f.name+" wants (default $"+agentTokenFileVariable+", or the token in $"+agentTokenVariable+")")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file of the authorities of the "+f.name+"'s certificate (default $"+agentCAFileVariable+" or the system's)")
	flags.StringVar(&f.certFile, "cert-file", "", "PEM file of a certificate to show, with --key-file (default $"+agentCertFileVariable+")")
	flags.StringVar(&f.keyFile, "key-file", "", "PEM file of its key (default $"+agentKeyFileVariable+")")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // it fails only for a flag that does not exist
}

// apiClient is one to ask, or a registrar.
type apiClient struct {
	service
	addr   string      // HOST:PORT
	source string      // what named the address, empty for the default
	tls    *tls.Config // nil for plain HTTP
	token  secret.String
	// tokenSource is what named the token.
	tokenSource string
}

// origin names the address and what it comes from.
func (a apiClient) origin() string {
	if a.source == "" {
		return a.addr
	}
	return a.addr + " (of " + a.source + ")"
}

// agent works out the agent to ask: --agent, else the file of -c, else MUSTER_AGENT, else
// the file of MUSTER_CONFIG, else the default. A file has the token and the certificate as
// well, and the variables for these count only without a file.
func (f askFlags) agent() (apiClient, error) {
	if f.addr != "" && f.file != "" {
		return apiClient{}, usageError(fmt.Errorf("--agent: %q: set beside -c %s, which names an address as well; keep one of the two", hidden(f.addr), f.file))
	}
	file := f.file
	if f.addr == "" && file == "" && os.Getenv(agentVariable) == "" {
		file = os.Getenv(fileVariable)
	}
	var a apiClient
	var err error
	if file != "" {
		a, err = f.configured(file)
	} else {
		a, err = f.named()
	}
	if err != nil {
		return apiClient{}, err
	}
	if f.tokenFile != "" {
		a.tokenSource = "--token-file"
		if a.token, err = secret.String("").Or(f.tokenFile); err != nil {
			return apiClient{}, usageError(fmt.Errorf("--token-file: %w; name a file that holds the token", err))
		}
	}
	if host, _, _ := net.SplitHostPort(a.addr); a.token != "" && a.tls == nil && !isLoopback(host) {
		return apiClient{}, usageError(fmt.Errorf("%s: %q: the token would travel in the clear; write https://%s", cmp.Or(a.source, "--agent"), a.addr, a.addr))
	}
	return a, nil
}

// configured is the agent of a configuration file.
func (f askFlags) configured(file string) (apiClient, error) {
	h, source, err := config.LoadHTTP(file)
	if err != nil {
		return apiClient{}, usageError(err)
	}
	if source("http.addr") == (config.Source{}) {
		h.Addr = f.usual
	}
	a, err := ownAgent(f.service, h)
	if err != nil {
		return apiClient{}, usageError(fmt.Errorf("%s: http: %w", file, err))
	}
	a.source = file
	if given := source("http.addr"); given != (config.Source{}) {
		a.source = given.String()
	}
	a.tokenSource = file
	if f.caFile != "" || f.certFile != "" || f.keyFile != "" {
		files := tlsfiles.Config{CAFile: f.caFile, CertFile: f.certFile, KeyFile: f.keyFile}
		if a.tls, err = files.Client(); err != nil {
			return apiClient{}, usageError(flagNames(err))
		}
	}
	return a, nil
}

// named is the agent of --agent, of the environment, or the default.
func (f askFlags) named() (apiClient, error) {
	source, given := "--agent", f.addr
	if given == "" {
		source, given = agentVariable, os.Getenv(agentVariable)
	}
	if given == "" {
		source, given = "", f.usual
	}
	addr, secure, err := f.address(given)
	if err != nil {
		return apiClient{}, usageError(fmt.Errorf("%s: %w", source, err))
	}
	a := apiClient{service: f.service, addr: addr, source: source}
	files := tlsfiles.Config{
		CAFile:   cmp.Or(f.caFile, os.Getenv(agentCAFileVariable)),
		CertFile: cmp.Or(f.certFile, os.Getenv(agentCertFileVariable)),
		KeyFile:  cmp.Or(f.keyFile, os.Getenv(agentKeyFileVariable)),
	}
	switch {
	case secure || files.Enabled() && !strings.HasPrefix(given, "http://"):
		if a.tls, err = files.Client(); err != nil {
			return apiClient{}, usageError(flagNames(err))
		}
	case f.caFile != "" || f.certFile != "" || f.keyFile != "":
		return apiClient{}, usageError(fmt.Errorf("%s: %q: plain HTTP beside --ca-file or --cert-file; write https://%s", source, given, addr))
	}
	if f.tokenFile != "" {
		return a, nil
	}
	a.tokenSource = agentTokenVariable
	if os.Getenv(agentTokenVariable) == "" {
		a.tokenSource = agentTokenFileVariable
	}
	if a.token, err = secret.String(os.Getenv(agentTokenVariable)).Or(os.Getenv(agentTokenFileVariable)); err != nil {
		return apiClient{}, usageError(fmt.Errorf("%s: %w; name a file that holds the token", agentTokenFileVariable, err))
	}
	return a, nil
}

// flagNames has errors about the files of TLS speak of the flag, and of the variable that
// takes its place.
func flagNames(err error) error {
	return errors.New(strings.NewReplacer(
		"tls.ca_file", "--ca-file or "+agentCAFileVariable,
		"tls.cert_file", "--cert-file or "+agentCertFileVariable,
		"tls.key_file", "--key-file or "+agentKeyFileVariable).Replace(err.Error()))
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// address is what is dialled for a given address, and whether over TLS.
func (s service) address(given string) (addr string, secure bool, err error) {
	addr = given
	if rest, ok := strings.CutPrefix(addr, "https://"); ok {
		addr, secure = strings.TrimSuffix(rest, "/"), true
	} else if rest, ok := strings.CutPrefix(addr, "http://"); ok {
		addr = strings.TrimSuffix(rest, "/")
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" || port == "0" || strings.ContainsAny(host, "/@") {
		return "", false, fmt.Errorf("%q: not the address of %s; write HOST:PORT, as %s, or https://HOST:PORT", hidden(given), s.one(), s.usual)
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
func (a apiClient) ask(ctx context.Context, path string, value any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return a.send(ctx, http.MethodGet, path, value)
}

// send is ask with a method. It waits for as long as ctx allows.
func (a apiClient) send(ctx context.Context, method, path string, value any) (json.RawMessage, error) {
	body, err := a.fetch(ctx, method, path, "application/json")
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(body, value)
	if err == nil && !isAnswer(body, value) {
		err = errors.New("it has none of the fields")
	}
	if err != nil {
		return nil, fmt.Errorf("what answers at %s is no %s: %s is not what was expected: %v; name the %s with --agent", a.origin(), a.name, path, err, a.name)
	}
	return bytes.TrimSpace(body), nil
}

// fetch returns an answer as it came. It waits for as long as ctx allows.
func (a apiClient) fetch(ctx context.Context, method, path, accept string) ([]byte, error) {
	response, err := a.open(ctx, method, path, accept)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the answer of the %s at %s broke off: %s", a.name, a.origin(), cause(err))
	}
	if response.StatusCode != http.StatusOK {
		return nil, a.refused(response, path, body)
	}
	return body, nil
}

// open sends a request, whose path may have a query, and returns the response, whatever its
// status. The caller closes its body, and with it the connection.
func (a apiClient) open(ctx context.Context, method, path, accept string) (*http.Response, error) {
	return a.openWith(ctx, method, path, nil, http.Header{"Accept": {accept}})
}

// openWith is open with a body and headers.
func (a apiClient) openWith(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	path, query, _ := strings.Cut(path, "?")
	u := &url.URL{Scheme: "http", Host: a.addr, Path: path, RawQuery: query}
	if a.tls != nil {
		u.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	request.Header = header
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json") // which a page of another site cannot send
	}
	if a.token != "" {
		request.Header.Set("Authorization", "Bearer "+string(a.token))
	}
	// No proxy stands between a command and its agent.
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: a.tls}
	client := &http.Client{
		Transport: transport,
		// An agent sends nobody elsewhere. What answers is none, and gets no token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, a.unanswered(err)
	}
	return response, nil
}

// isAnswer reports whether an object may be meant to be value: another API's says nothing
// of it, and would be taken for an agent of which everything is empty. One of a later
// version may say more.
func isAnswer(object []byte, value any) bool {
	fields := make(map[string]json.RawMessage)
	t := reflect.TypeOf(value).Elem()
	if t.Kind() != reflect.Struct || json.Unmarshal(object, &fields) != nil {
		return true
	}
	mayBeEmpty := true
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		if _, has := fields[name]; has {
			return true
		}
		mayBeEmpty = mayBeEmpty && strings.Contains(options, "omit")
	}
	return mayBeEmpty && len(fields) == 0
}

// unanswered explains that there was no answer.
func (a apiClient) unanswered(err error) error {
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("the certificate of the %s at %s is for %s, and not for %s; name a host that it is for with --agent, or have it issued for this one as well",
			a.name, a.origin(), pki.Hosts(name.Certificate), name.Host)
	case errors.As(err, &cert):
		return fmt.Errorf("the certificate of the %s at %s is not believed: %w; name its authority with --ca-file", a.name, a.origin(), cert.Err)
	case a.tls != nil && (errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response")):
		return fmt.Errorf("the %s at %s speaks no TLS; write --agent http://%s, without --ca-file", a.name, a.origin(), a.addr)
	}
	return unansweredError{a.source, fmt.Errorf("no %s answers at %s: %s; start one with %s or name it with --agent", a.name, a.origin(), cause(err), a.command)}
}

// unansweredError says that nobody was there to answer, at an address of source.
type unansweredError struct {
	source string
	error
}

// refused explains an answer that is none to the question.
func (a apiClient) refused(response *http.Response, path string, body []byte) error {
	var refusal httpapi.Error
	switch {
	case response.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTP request to an HTTPS server")):
		return fmt.Errorf("the %s at %s speaks TLS; write --agent https://%s, and --ca-file for its authority", a.name, a.origin(), a.addr)
	case json.Unmarshal(body, &refusal) != nil || refusal.Error == "":
		return fmt.Errorf("what answers at %s is no %s: %s for %s; name the %s with --agent", a.origin(), a.name, response.Status, path, a.name)
	case response.StatusCode == http.StatusUnauthorized:
		shown := "none is shown"
		if a.token != "" {
			shown = "shown is that of " + a.tokenSource
		}
		return fmt.Errorf("the %s at %s: %s (%s); name its file with --token-file or %s", a.name, a.origin(), refusal.Error, shown, agentTokenFileVariable)
	case response.StatusCode == http.StatusForbidden && strings.HasPrefix(refusal.Error, "a client certificate"):
		return fmt.Errorf("the %s at %s: %s; name it with --cert-file and --key-file", a.name, a.origin(), refusal.Error)
	case response.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the %s at %s: %s", a.name, a.origin(), refusal.Error)
	case response.StatusCode == http.StatusNotFound && strings.HasPrefix(refusal.Error, "no such path"):
		return fmt.Errorf("%w: %s", errNoSuchPath, refusal.Error)
	}
	if refusal.Reason != "" {
		return fmt.Errorf("%s (reason %s)", refusal.Error, refusal.Reason)
	}
	return errors.New(refusal.Error)
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
