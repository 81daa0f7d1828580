package httpapi

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/secret"
)

const (
	// sessionAge is how long a session lasts at most.
	sessionAge = 12 * time.Hour
	// maxSessions bounds the sessions: one more ends the oldest.
	maxSessions = 64
)

// Sessions are browsers whose users have shown the token. Each has a cookie with 256 random bits,
// which stand for the token in requests that read, and in no others. A session ends after 12 hours,
// by Logout, when the token changes, and with the process. All methods of Options that use
// Sessions are safe for concurrent use. The zero value has none yet.
type Sessions struct {
	mu   sync.Mutex
	open []session // the oldest first
}

type session struct {
	// id is the digest of what the cookie holds, so that how long it takes to find one says
	// nothing of the cookie; token is that of the token which was shown.
	id, token [sha256.Size]byte
	until     time.Time
}

func (s session) isOver(now time.Time, token secret.String) bool {
	return !now.Before(s.until) || s.token != sha256.Sum256([]byte(token))
}

// Login starts a session for the browser that sent r, and sets its cookie, if shown is the token.
// The error says why not, with the status of the answer.
func (o Options) Login(w http.ResponseWriter, r *http.Request, shown string) (int, error) {
	if status, err := o.checkForm(r); err != nil {
		return status, err
	}
	if o.Token == nil || o.Sessions == nil {
		return http.StatusNotFound, errors.New("no token is wanted here")
	}
	token := o.Token()
	if !same(token, shown) {
		return http.StatusUnauthorized, errWrongToken
	}
	value := rand.Text() + rand.Text()
	o.Sessions.start(value, token)
	http.SetCookie(w, cookieOf(r, value, int(sessionAge/time.Second)))
	return 0, nil
}

// Logout ends the session of the browser that sent r, if it has one, and removes its cookie.
func (o Options) Logout(w http.ResponseWriter, r *http.Request) (int, error) {
	if status, err := o.checkForm(r); err != nil {
		return status, err
	}
	o.Sessions.end(r)
	http.SetCookie(w, cookieOf(r, "", -1))
	return 0, nil
}

// checkForm says why r may not send a form: it may if it comes from a page of this API.
func (o Options) checkForm(r *http.Request) (int, error) {
	if status, err := o.checkClient(r); err != nil {
		return status, err
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return http.StatusForbidden, fmt.Errorf("a page of another site may not ask for this: %w", err)
	}
	return 0, nil
}

// HasSession reports whether r is let through by its cookie.
func (o Options) HasSession(r *http.Request) bool {
	return o.Token != nil && o.Sessions.allows(r, o.Token())
}

// allows reports whether the cookie of r stands for token. A page of another port of this host is
// of the same site to a browser, which would send it the cookie: what such a page asks for is not
// let through.
func (s *Sessions) allows(r *http.Request, token secret.String) bool {
	if s == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return false
	}
	ids, now := idsOf(r), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.open, func(open session) bool { return slices.Contains(ids, open.id) && !open.isOver(now, token) })
}

func (s *Sessions) start(value string, token secret.String) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(open session) bool { return open.isOver(now, token) })
	if len(s.open) >= maxSessions {
		s.open = slices.Delete(s.open, 0, len(s.open)-maxSessions+1)
	}
	s.open = append(s.open, session{id: sha256.Sum256([]byte(value)), token: sha256.Sum256([]byte(token)), until: now.Add(sessionAge)})
}

func (s *Sessions) end(r *http.Request) {
	if s == nil {
		return
	}
	ids := idsOf(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(open session) bool { return slices.Contains(ids, open.id) })
}

// idsOf returns the digests of the cookies of r that may be those of sessions. There may be several
// of one name: any server on this host can set one for a longer path, which comes first.
func idsOf(r *http.Request) (ids [][sha256.Size]byte) {
	for _, cookie := range r.CookiesNamed(cookieName(r)) {
		ids = append(ids, sha256.Sum256([]byte(cookie.Value)))
	}
	return ids
}

// cookieName returns the name of the cookie of a session. A cookie is for all ports of a host, so
// that the name has the port: an agent and a registrar on one host do not replace each other's.
// Over TLS it has the prefix with which a browser takes it from this host alone.
func cookieName(r *http.Request) string {
	name := "muster_session"
	_, port, err := net.SplitHostPort(r.Host)
	if err == nil && port != "" && strings.Trim(port, "0123456789") == "" {
		name += "_" + port
	}
	if r.TLS != nil {
		name = "__Host-" + name
	}
	return name
}

// cookieOf returns the cookie of a session, which no script can read and which is not sent with
// what another site asks for.
func cookieOf(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName(r), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
