package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Options protect and bound the API. The zero value protects nothing and has the
// bounds that are named below.
type Options struct {
	// Token returns the token that a client has to show, as a bearer token. Where it
	// returns none, none will do. Nil: everyone may ask. See TokenOf.
	Token func() driver.Secret

	// ClientCertificates demands a certificate of the client too. The server has to
	// have verified it, as that of driver.TLS.ServerConfig does.
	ClientCertificates bool

	// LocalNames refuses who calls this host by another name than localhost or an IP
	// address. It is for an API on loopback without a token: a page in a browser there
	// could otherwise reach it under a name of its own that it has lead to 127.0.0.1, and
	// read the answers.
	LocalNames bool

	// MaxStreams bounds the streams of events that are read at one time. Default: 64.
	MaxStreams int

	// TLS is that of the API itself, whose state is told. Nil: it has none.
	TLS *driver.LiveTLS
}

// guarded reports whether anything is demanded of a client.
func (o Options) guarded() bool { return o.Token != nil || o.ClientCertificates || o.LocalNames }

// check says why the client of r may not ask, with the status of the answer.
func (o Options) check(r *http.Request) (int, error) {
	if o.ClientCertificates && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return http.StatusForbidden, errors.New("a client certificate is wanted that http.tls.ca_file has signed")
	}
	if o.LocalNames && !localName(r.Host) {
		return http.StatusForbidden, fmt.Errorf("%q is no name of loopback; ask 127.0.0.1, or configure http.token_file and show the token", r.Host)
	}
	if o.Token == nil {
		return 0, nil
	}
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return http.StatusUnauthorized, errors.New("a token is wanted, as Authorization: Bearer TOKEN")
	case !same(o.Token(), strings.TrimSpace(shown)):
		return http.StatusUnauthorized, errors.New("the token is not the one that is wanted")
	}
	return 0, nil
}

// localName reports whether a Host header is one that no name server has a say in.
func localName(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	_, err = netip.ParseAddr(host)
	return err == nil || host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// same compares in a time that tells nothing of either, not even their lengths.
func same(want driver.Secret, shown string) bool {
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(shown))
	return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// yesOrNo is an answer of which a stranger learns the status alone.
type yesOrNo struct {
	http.ResponseWriter
	no, told bool
}

func (y *yesOrNo) WriteHeader(status int) {
	y.no = status >= http.StatusBadRequest
	y.ResponseWriter.WriteHeader(status)
}

func (y *yesOrNo) Write(b []byte) (int, error) {
	if y.told {
		return len(b), nil
	}
	y.told = true
	text := "ok\n"
	if y.no {
		text = `{"error":"not ready"}` + "\n"
	}
	_, err := io.WriteString(y.ResponseWriter, text)
	return len(b), err
}

// Protect lets through to next who may ask, and to the paths of health everyone: what
// probes a container or balances load has no token. Those paths tell a stranger no more
// than yes or no, which is the status.
func (o Options) Protect(next http.Handler) http.Handler {
	if !o.guarded() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := o.check(r)
		switch {
		case err == nil:
		case r.URL.Path == PathHealth || r.URL.Path == PathReady:
			w = &yesOrNo{ResponseWriter: w}
		default:
			if status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="muster"`)
			}
			w.Header().Set("Connection", "close") // a stranger keeps no place
			writeError(w, status, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// tokenAge is how old the reading of a token file may be.
const tokenAge = time.Second

// TokenOf returns what Options.Token wants: token, or what file holds, which is read
// again when it is asked for after a second, so that a new token is picked up. While
// the file cannot be read, or is empty, the last token stands.
func TokenOf(token driver.Secret, file string) func() driver.Secret {
	if token != "" || file == "" {
		return func() driver.Secret { return token }
	}
	var mu sync.Mutex
	var last driver.Secret
	var read time.Time
	return func() driver.Secret {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); read.IsZero() || now.Sub(read) >= tokenAge {
			read = now
			if fresh, err := driver.Secret("").Or(file); err == nil && fresh != "" {
				last = fresh
			}
		}
		return last
	}
}
