package consul

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
	"github.com/musterhq/muster/providers/internal/format"
)

// A registration is a service of Consul:
//
//	Name             the service
//	ID               its name, a colon and the key of the instance, or as the format has it
//	Address, Port    the address
//	Tags             the tags
//	Meta             what Consul can keep of the meta, and what is Muster's own:
//	  muster-session   the session that it hangs on
//	  muster-alive     the key that the session holds, in mode catalog
//	  muster-again     how often it was lost behind the agent's back, if it was
//	  muster-0, -1 ...   the instance as JSON, in pieces that Consul can keep
//	check            with a TTL, in mode agent: "muster-", the session, a colon and the ID
//
// Tags and meta stand twice, so that users of Consul can filter by them and nothing
// is lost that Consul cannot keep: of meta it limits number, length and letters.
const (
	metaOwn     = "muster-"
	metaSession = metaOwn + "session"
	metaAlive   = metaOwn + "alive"
	metaAgain   = metaOwn + "again"

	// https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference#meta
	maxPairs    = 64
	maxKeyLen   = 128
	maxValueLen = 512
)

var metaKey = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// checkID is that of the check which session keeps on the service id.
func checkID(session, id string) string { return metaOwn + session + ":" + id }

// registration returns the service that registers i, with some meta of ours.
func (d *Driver) registration(i driver.Instance, meta map[string]string) (*api.AgentServiceRegistration, error) {
	if err := i.Validate(); err != nil {
		return nil, err
	}
	id, err := d.serviceID(i)
	if err != nil {
		return nil, err
	}
	return encode(i, id, meta)
}

// encode returns the registration of i, as the service of an ID. The meta has what is
// in own, which says on what it hangs.
func encode(i driver.Instance, id string, own map[string]string) (*api.AgentServiceRegistration, error) {
	host, port, err := net.SplitHostPort(i.Addr)
	if err != nil {
		return nil, fmt.Errorf("%w: address %q: %w", driver.ErrInvalid, i.Addr, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("%w: address %q: the port is no number", driver.ErrInvalid, i.Addr)
	}
	record, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	meta := maps.Clone(own)
	for n, piece := range pieces(string(record)) {
		meta[metaOwn+strconv.Itoa(n)] = piece
	}
	if len(meta) > maxPairs {
		return nil, fmt.Errorf("%w: the instance takes %d pairs of Consul's meta, which keeps %d of %d bytes each; shorten node.meta, node.tags or node.app_addrs",
			driver.ErrInvalid, len(meta), maxPairs, maxValueLen)
	}
	// Always the same ones, where there is no room for all.
	for _, k := range slices.Sorted(maps.Keys(i.Meta)) {
		if v := i.Meta[k]; len(meta) < maxPairs && metaKey.MatchString(k) && len(k) <= maxKeyLen && len(v) <= maxValueLen &&
			!strings.HasPrefix(k, metaOwn) && !strings.HasPrefix(k, "consul-") {
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

		EnableTagOverride: wanted(i.Meta[askTagOverride]),
	}, nil
}

// pieces cuts s into as many as Consul wants, none of them within a letter: what it
// is sent is JSON, which has no room for half of one.
func pieces(s string) []string {
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

// decode returns the instance that entry stands for, whoever registered it. One of
// registrator is known by its ID where that has the form by which it is unique, and is
// not shared all the same, as by hosts of one name; others of strangers by their address.
func decode(entry *api.ServiceEntry, shared bool) (driver.Instance, error) {
	if entry.Service.Meta[metaSession] != "" {
		return decodeOwn(entry)
	}
	host := entry.Service.Address
	if host == "" {
		host = entry.Node.Address
	}
	i := driver.Instance{
		Service: entry.Service.Service,
		Addr:    net.JoinHostPort(host, strconv.Itoa(entry.Service.Port)),
		Tags:    trimmed(entry.Service.Tags),
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

func decodeOwn(entry *api.ServiceEntry) (driver.Instance, error) {
	var record strings.Builder
	for n := 0; ; n++ {
		piece, ok := entry.Service.Meta[metaOwn+strconv.Itoa(n)]
		if !ok {
			break
		}
		record.WriteString(piece)
	}
	var i driver.Instance
	if err := json.Unmarshal([]byte(record.String()), &i); err != nil {
		return driver.Instance{}, fmt.Errorf("%w: meta %s0 and on: %w", driver.ErrInvalid, metaOwn, err)
	}
	if i.Service != entry.Service.Service {
		return driver.Instance{}, fmt.Errorf("%w: says that it is of service %q", driver.ErrInvalid, i.Service)
	}
	return i, i.Validate()
}

// trimmed returns tags as their owner meant them: "a, b" is two, and an empty one is
// none.
func trimmed(tags []string) []string {
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

// health is what the checks of an entry come to.
type health int

const (
	passing health = iota
	failing        // a check says so
	gone           // Muster does: the session that it hangs on is over
)

// healthOf looks at the checks of an entry, those of its node among them.
func healthOf(entry *api.ServiceEntry) health {
	h := passing
	session := entry.Service.Meta[metaSession]
	kept := session == "" || entry.Service.Meta[metaAlive] != "" // by a key: alive.go
	for _, check := range entry.Checks {
		if session != "" && check.CheckID == checkID(session, entry.Service.ID) {
			if kept = check.Status == api.HealthPassing; !kept {
				return gone
			}
		}
		if check.Status != api.HealthPassing {
			h = failing
		}
	}
	if !kept {
		return gone
	}
	return h
}
