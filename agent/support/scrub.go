package support

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/decode"
	"github.com/musterhq/muster/secret"
)

// leastSecret is the shortest text that is looked for: a shorter one is found everywhere.
const leastSecret = 4

var (
	// userinfo is what a URL has before its host, if there is a password. oddUserinfo is the same
	// with a password that is not encoded as it should be, and port what it is then not.
	userinfo    = regexp.MustCompile(`(://[^\s/?#"':]*):[^\s/?#"']*@`)
	oddUserinfo = regexp.MustCompile(`(://[^\s/?#"':,\[]*):([^\s"',]*)@`)
	port        = regexp.MustCompile(`^[0-9]*[/?#]`)
	// bearer is a token as a header has it, and pemKey a private key.
	bearer = regexp.MustCompile(`(?i)(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}`)
	pemKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)
)

// Scrubber takes secrets out of texts.
type Scrubber struct{ known [][]byte }

// NewScrubber returns a Scrubber of these secrets, in the forms in which JSON, YAML and URLs have
// them as well. Those of less than 4 bytes are not looked for.
func NewScrubber(secrets ...secret.String) *Scrubber {
	forms := make(map[string]bool)
	for _, s := range secrets {
		text := string(s)
		for _, form := range []string{text, quoted(text, true), quoted(text, false), strings.ReplaceAll(text, "'", "''"), url.QueryEscape(text), url.PathEscape(text)} {
			if len(form) >= leastSecret {
				forms[form] = true
			}
		}
	}
	s := new(Scrubber)
	for form := range forms {
		s.known = append(s.known, []byte(form))
	}
	// A secret that is part of another one does not leave the rest of that.
	slices.SortFunc(s.known, func(a, b []byte) int { return cmp.Or(cmp.Compare(len(b), len(a)), bytes.Compare(a, b)) })
	return s
}

// Scrub returns text with [redacted] in place of each secret, private key, bearer token and
// password of a URL.
func (s *Scrubber) Scrub(text []byte) []byte {
	redacted := []byte(decode.Redacted)
	for _, known := range s.known {
		text = bytes.ReplaceAll(text, known, redacted)
	}
	text = pemKey.ReplaceAll(text, redacted)
	text = bearer.ReplaceAll(text, []byte("$1 "+decode.Redacted))
	text = userinfo.ReplaceAll(text, []byte("$1:"+decode.Redacted+"@"))
	return oddUserinfo.ReplaceAllFunc(text, func(url []byte) []byte {
		part := oddUserinfo.FindSubmatch(url)
		if port.Match(part[2]) {
			return url
		}
		return slices.Concat(part[1], []byte(":"+decode.Redacted+"@"))
	})
}

// quoted is text within a string of JSON, which may have characters of HTML as they are.
func quoted(text string, escapeHTML bool) string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(escapeHTML)
	_ = e.Encode(text) // a string is JSON always
	line := strings.TrimSuffix(out.String(), "\n")
	return line[1 : len(line)-1]
}
