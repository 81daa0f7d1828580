package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

// Options protect and bound the API. The zero value protects nothing and has the
// bounds that are named below.
type Options struct {
	// Token returns the token that a client has to show, as a bearer token. Where it
	// returns none, none will do. Nil: everyone may ask. See TokenOf.
	Token func() secret.String

	// Sessions are the browsers that have shown Token, and need not do so with each request: see
	// Login. Nil: there are none.
	Sessions *Sessions

	// ClientCertificates demands a certificate of the client too. The server has to
	// have verified it, as that of tlsfiles.Config.Server does.
	ClientCertificates bool

	// LocalNames refuses who calls this host by another name than localhost or an IP
	// address. It is for an API on loopback without a token: a page in a browser there
	// could otherwise reach it under a name of its own that it has lead to 127.0.0.1, and
	// read the answers.
	LocalNames bool

	// MaxStreams bounds the streams of events that are read at one time. Default: 64.
	MaxStreams int

	// TLS is that of the API itself, whose state is told. Nil: it has none.
	TLS *tlsfiles.Files

	// Proxies returns what the proxies of the agent do. Nil: it has none.
	Proxies func() []Proxy

	// Steps returns the steps of upgrades that are recorded, as they are known without asking. Nil:
	// none are shown.
	Steps func() []upgrade.Status

	// History writes the last records that the node kept of itself, as lines of package
	// node/history. Nil: the node keeps none.
	History io.WriterTo

	// Operator is what the paths that change something need, apart from the node. Nil: the API
	// changes nothing. They answer only where Token, ClientCertificates or LocalNames guard
	// the API.
	Operator *Operator
}

// Operator does what an operator asks of the program that runs the node.
type Operator struct {
	// Leave has the node leave and the program end, and returns when the node has left.
	Leave func(context.Context) error
	// Reload reads the configuration again.
	Reload func(context.Context) (Reloaded, error)
	// Upgrades runs the steps of clients, by PathUpgradeRun. The caller runs it. Nil: clients have
	// no steps.
	Upgrades *upgrade.Runner
	// Jobs runs the jobs of the program. The caller runs it; what can be added at run time is one
	// of its Handlers, as its Permit says. Nil: there are none.
	Jobs *cron.Scheduler
	// Call makes a call to members, within ctx. An error that is a driver.ErrInvalid says what is
	// wrong with the request; what became of the call is in the replies. Nil: there are no calls.
	Call func(context.Context, Call) ([]CallReply, error)
	// Connect serves plain gRPC on a connection, whose calls go to CallMaster or the node of an id,
	// until the connection ends. It closes it. Nil: there are no calls.
	Connect func(to string, c net.Conn)
}

// operable says why r may not change anything, with the status of the answer. A page in a
// browser can have it send a POST to any address, also of loopback, but not one of this type
// without asking before, which no route answers; and a browser says whose page it is.
func (o Options) operable(r *http.Request) (int, error) {
	if o.Operator == nil || !o.guarded() {
		return http.StatusForbidden, fmt.Errorf("%s: this API changes nothing", r.URL.Path)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return http.StatusUnsupportedMediaType, errors.New("the content type application/json is wanted")
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return http.StatusForbidden, fmt.Errorf("a page of another site may not ask for this: %w", err)
	}
	return 0, nil
}

// guarded reports whether anything is demanded of a client.
func (o Options) guarded() bool { return o.Token != nil || o.ClientCertificates || o.LocalNames }

// Check returns nil if the client of r may ask, and else why not, with the status of the answer.
// NewWith and Protect ask it.
func (o Options) Check(r *http.Request) (int, error) {
	if status, err := o.checkClient(r); err != nil {
		return status, err
	}
	if o.Token == nil || o.Sessions.allows(r, o.Token()) {
		return 0, nil
	}
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return http.StatusUnauthorized, errors.New("a token is wanted, as Authorization: Bearer TOKEN")
	case !same(o.Token(), strings.TrimSpace(shown)):
		return http.StatusUnauthorized, errWrongToken
	}
	return 0, nil
}

var errWrongToken = errors.New("the token is not the one that is wanted")

// checkClient is the part of Check that is not about the token.
func (o Options) checkClient(r *http.Request) (int, error) {
	if o.ClientCertificates && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return http.StatusForbidden, errors.New("a client certificate is wanted that http.tls.ca_file has signed")
	}
	if o.LocalNames && !localName(r.Host) {
		return http.StatusForbidden, fmt.Errorf("%q is no name of loopback; ask 127.0.0.1, or configure http.token_file and show the token", r.Host)
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
func same(want secret.String, shown string) bool {
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(shown))
	return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// yesOrNo is an answer of which a stranger learns the status alone.
type yesOrNo struct {
	http.ResponseWriter
	// asked is what the status answers: ready or master.
	asked    string
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
		text = `{"error":"not ` + y.asked + `"}` + "\n"
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
		status, err := o.Check(r)
		switch {
		case err == nil:
		case r.URL.Path == PathHealth || r.URL.Path == PathReady:
			w = &yesOrNo{ResponseWriter: w, asked: "ready"}
		case r.URL.Path == PathIsMaster:
			w = &yesOrNo{ResponseWriter: w, asked: "master"}
		default:
			if status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="muster"`)
			}
			w.Header().Set("Connection", "close") // a stranger keeps no place
			routes.WriteError(w, status, err)
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
func TokenOf(token secret.String, file string) func() secret.String {
	if token != "" || file == "" {
		return func() secret.String { return token }
	}
	var mu sync.Mutex
	var last secret.String
	var read time.Time
	return func() secret.String {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); read.IsZero() || now.Sub(read) >= tokenAge {
			read = now
			if fresh, err := secret.String("").Or(file); err == nil && fresh != "" {
				last = fresh
			}
		}
		return last
	}
}
