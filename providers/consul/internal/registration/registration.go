// Package registration reads and writes instances as services of Consul:
//
//	Name             the service
//	ID               its name, a colon and the key of the instance, or as the format has it
//	Address, Port    the address
//	Tags             the tags
//	Meta             what Consul can keep of the meta, and what is Muster's own:
//	  muster-session   the session that it belongs to
//	  muster-alive     the key that the session holds, in mode catalog
//	  muster-again     how often it was lost behind the agent's back, if it was
//	  muster-0, -1 ... the instance as JSON, in pieces that Consul can keep
//	check            with a TTL, in mode agent: "muster-", the session, a colon and the ID
//
// If consul.Config.Record is check, the meta is that of the instance alone, and the notes of the
// check have the instance, for readers that make a label of each pair of meta. The session is known
// by the name of the check.
//
// Tags and meta are written twice, so that users of Consul can filter by them and nothing is lost
// that Consul cannot keep: it limits the number, the length and the letters of meta.
package registration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/checks"
	"github.com/musterhq/muster/providers/internal/format"
)

// The keys of meta that are Muster's own.
const (
	// MetaPrefix begins all of them, and the names of the checks of sessions.
	MetaPrefix = "muster-"
	// SessionMeta is the session that the service belongs to.
	SessionMeta = MetaPrefix + "session"
	// LivenessMeta is the key that the session holds while it lives, in mode catalog.
	LivenessMeta = MetaPrefix + "alive"
	// AgainMeta is how often the service was registered again.
	AgainMeta = MetaPrefix + "again"
)

const (
	// https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference#meta
	maxPairs    = 64
	maxKeyLen   = 128
	maxValueLen = 512
)

var metaKey = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// SessionID is the form of the ids of sessions, as rand.Text makes them.
var SessionID = regexp.MustCompile(`^[a-z2-7]{26}$`)

// CheckID is that of the check which session keeps on the service id.
func CheckID(session, id string) string { return MetaPrefix + session + ":" + id }

// Encode returns i as the service id. Its meta has what is in own, which says what the service
// belongs to, and the whole of i, unless own is nil. The error wraps driver.ErrInvalid.
func Encode(i driver.Instance, id string, own map[string]string) (*api.AgentServiceRegistration, error) {
	host, port, err := net.SplitHostPort(i.Addr)
	if err != nil {
		return nil, fmt.Errorf("%w: address %q: %w", driver.ErrInvalid, i.Addr, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("%w: address %q: the port is no number", driver.ErrInvalid, i.Addr)
	}
	meta := make(map[string]string)
	if own != nil {
		record, err := json.Marshal(i)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", driver.ErrInvalid, err)
		}
		maps.Copy(meta, own)
		for n, piece := range split(string(record)) {
			meta[MetaPrefix+strconv.Itoa(n)] = piece
		}
	}
	if len(meta) > maxPairs {
		return nil, fmt.Errorf("%w: the instance takes %d pairs of Consul's meta, which keeps %d of %d bytes each; shorten node.meta, node.tags or node.app_addrs",
			driver.ErrInvalid, len(meta), maxPairs, maxValueLen)
	}
	// Always the same ones if there is no room for all.
	for _, k := range slices.Sorted(maps.Keys(i.Meta)) {
		if v := i.Meta[k]; len(meta) < maxPairs && metaKey.MatchString(k) && len(k) <= maxKeyLen && len(v) <= maxValueLen &&
			!strings.HasPrefix(k, MetaPrefix) && !strings.HasPrefix(k, "consul-") {
			meta[k] = v
		}
	}
	return &api.AgentServiceRegistration{
		ID:      id,
		Name:    i.Service,
		Address: host,
		Port:    number,
		Tags:    i.Tags,
		Meta:    meta,

		EnableTagOverride: checks.TagOverride(i),
	}, nil
}

// split cuts s into pieces that Consul keeps, none of them within a character: Consul is sent JSON,
// which cannot hold half of one.
func split(s string) []string {
	var all []string
	for len(s) > maxValueLen {
		end := maxValueLen
		for !utf8.RuneStart(s[end]) {
			end--
		}
		all = append(all, s[:end])
		s = s[end:]
	}
	return append(all, s)
}

// Decode returns the instance that entry registers, whichever program wrote it. shared says that
// another entry has the same ID. An instance of registrator is known by its ID if that has the form
// that makes it unique and is not shared, as by hosts of one name; those of other programs are
// known by their address. The error wraps driver.ErrInvalid.
func Decode(entry *api.ServiceEntry, shared bool) (driver.Instance, error) {
	if SessionOf(entry) != "" {
		return DecodeOwn(entry)
	}
	host := entry.Service.Address
	if host == "" {
		host = entry.Node.Address
	}
	i := driver.Instance{
		Service: entry.Service.Service,
		Addr:    net.JoinHostPort(host, strconv.Itoa(entry.Service.Port)),
		Tags:    splitTags(entry.Service.Tags),
	}
	if len(entry.Service.Meta) > 0 {
		i.Meta = entry.Service.Meta
	}
	if node := format.RegistratorNode(entry.Service.ID); node != "" && !shared {
		i.InstanceID, i.NodeID = entry.Service.ID, node
	}
	if host == "" {
		return driver.Instance{}, fmt.Errorf("%w: neither the service nor its node has an address", driver.ErrInvalid)
	}
	return i, i.Validate()
}

// Note is the JSON in the notes of a check: the instance that it checks.
type Note struct {
	Instance driver.Instance `json:"instance"`
	// Again is how often it was registered again, since it was lost behind the agent's back.
	Again int `json:"again,omitempty"`
}

// sessionCheck returns the check of a session on the service of entry, or nil.
func sessionCheck(entry *api.ServiceEntry) *api.HealthCheck {
	for _, check := range entry.Checks {
		if check.ServiceID == entry.Service.ID && sessionOfCheck(check.CheckID, entry.Service.ID) != "" {
			return check
		}
	}
	return nil
}

// sessionOfCheck returns the session whose check on the service id has that name, or "" if it is
// not one of Muster's.
func sessionOfCheck(name, id string) string {
	session, ok := strings.CutSuffix(name, ":"+id)
	session, own := strings.CutPrefix(session, MetaPrefix)
	if !ok || !own || !SessionID.MatchString(session) {
		return ""
	}
	return session
}

// SessionOf returns the session that entry belongs to, or "" if it is not one of Muster's.
func SessionOf(entry *api.ServiceEntry) string {
	if session := entry.Service.Meta[SessionMeta]; session != "" {
		return session
	}
	if check := sessionCheck(entry); check != nil {
		return sessionOfCheck(check.CheckID, entry.Service.ID)
	}
	return ""
}

// DecodeOwn returns the instance of an entry that belongs to a session of Muster. The error wraps
// driver.ErrInvalid.
func DecodeOwn(entry *api.ServiceEntry) (driver.Instance, error) {
	if check := sessionCheck(entry); entry.Service.Meta[SessionMeta] == "" && check != nil {
		return decodeNote(check.Notes, entry.Service.Service)
	}
	var record strings.Builder
	for n := 0; ; n++ {
		piece, ok := entry.Service.Meta[MetaPrefix+strconv.Itoa(n)]
		if !ok {
			break
		}
		record.WriteString(piece)
	}
	var i driver.Instance
	if err := json.Unmarshal([]byte(record.String()), &i); err != nil {
		return driver.Instance{}, fmt.Errorf("%w: meta %s0 and on: %w", driver.ErrInvalid, MetaPrefix, err)
	}
	if i.Service != entry.Service.Service {
		return driver.Instance{}, fmt.Errorf("%w: says that it is of service %q", driver.ErrInvalid, i.Service)
	}
	return i, i.Validate()
}

// decodeNote returns the instance of service in the notes of a check.
func decodeNote(notes, service string) (driver.Instance, error) {
	var n Note
	if err := json.Unmarshal([]byte(notes), &n); err != nil {
		return driver.Instance{}, fmt.Errorf("%w: notes of its check: %w", driver.ErrInvalid, err)
	}
	if n.Instance.Service != service {
		return driver.Instance{}, fmt.Errorf("%w: says that it is of service %q", driver.ErrInvalid, n.Instance.Service)
	}
	return n.Instance, n.Instance.Validate()
}

// splitTags returns tags as their owner meant them: "a, b" is two tags, and an empty one is none.
func splitTags(tags []string) []string {
	var all []string
	for _, tag := range tags {
		for part := range strings.SplitSeq(tag, ",") {
			if part = strings.TrimSpace(part); part != "" {
				all = append(all, part)
			}
		}
	}
	return all
}

// Health is the result of the checks of an entry.
type Health int

const (
	// Passing says that all checks pass.
	Passing Health = iota
	// Failing says that some check does not pass.
	Failing
	// Ended says that the session has ended, by its own check.
	Ended
)

// HealthOf returns the result of the checks of entry, with those of its node. Whether the key of a
// session in mode catalog is held, the caller knows.
func HealthOf(entry *api.ServiceEntry) Health {
	h := Passing
	session := SessionOf(entry)
	kept := session == "" || entry.Service.Meta[LivenessMeta] != "" // then by a key
	for _, check := range entry.Checks {
		if session != "" && check.CheckID == CheckID(session, entry.Service.ID) {
			if kept = check.Status == api.HealthPassing; !kept {
				return Ended
			}
		}
		if check.Status != api.HealthPassing {
			h = Failing
		}
	}
	if !kept {
		return Ended
	}
	return h
}

// SameService reports whether have is registered as want says. Tags that others may change do not
// count.
func SameService(have *api.AgentService, want *api.AgentServiceRegistration) bool {
	return have != nil && have.Service == want.Name && have.Address == want.Address && have.Port == want.Port &&
		have.EnableTagOverride == want.EnableTagOverride && (want.EnableTagOverride || slices.Equal(have.Tags, want.Tags)) &&
		maps.Equal(have.Meta, want.Meta)
}
