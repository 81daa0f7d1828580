package format

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/hint"
)

// SkyDNS returns the layout of SkyDNS 2 and of CoreDNS, which answer queries for
// SERVICE.DOMAIN from it:
//
//	/skydns/local/cluster/redis/redis-1 = {"host":"10.0.0.5","port":6379,"ttl":36}
//
// Root is what all keys start with, its slash included, such as "/skydns/", and
// domain is such as "cluster.local". The instance id is the id in the key, and
// the other way round: that of a Muster node is a good label of DNS. An instance
// without one has its node id there. A record may also be at the key of the service
// itself: [KV.Leaf].
func SkyDNS(root, domain string) KV {
	labels := strings.Split(strings.TrimSuffix(domain, "."), ".")
	slices.Reverse(labels)
	return KV{root + strings.Join(labels, "/") + "/", skyDNS{domain: strings.TrimSuffix(domain, ".")}}
}

// WithTTL returns kv as it is written on a session with a TTL. Only SkyDNS' records have it,
// in whole seconds: how long a resolver may keep the answer. CoreDNS before 1.12.4 answers
// with the id of the lease where a record has none, which is a hundred years.
func (kv KV) WithTTL(ttl time.Duration) KV {
	if s, ok := kv.system.(skyDNS); ok {
		s.ttl = uint32(min(max(ttl/time.Second, 1), math.MaxInt32)) // the most that DNS has
		kv.system = s
	}
	return kv
}

// Leaf returns the key of the service itself, and false if no record may be there.
// As for CoreDNS, the one there counts as long as no key is below it.
func (kv KV) Leaf(service string) (string, bool) {
	_, ok := kv.system.(skyDNS)
	return kv.root + service, ok
}

// IsDomain reports whether CoreDNS finds what is below the labels of name.
func IsDomain(name string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if labelProblem(label, "") != "" {
			return false
		}
	}
	return len(name) <= maxName
}

type skyDNS struct {
	domain string
	ttl    uint32 // in seconds, 0 to say none
}

// skyDNSRecord is the value. There may be more in it, such as a weight.
type skyDNSRecord struct {
	Host string      `json:"host"`
	Port json.Number `json:"port"`
	TTL  uint32      `json:"ttl,omitempty"`
}

// skyDNSLocation is what is read of a value: a TTL of any form is the writer's.
type skyDNSLocation struct {
	Host string      `json:"host"`
	Port json.Number `json:"port"`
}

func (skyDNS) id(i driver.Instance, _, _ string) (string, error) {
	id := cmp.Or(i.InstanceID, i.NodeID)
	if id == "" {
		return "", fmt.Errorf("%w: instance at %s has neither an instance id nor a node id, one of which ends its key", driver.ErrInvalid, i.Addr)
	}
	return id, nil
}

func (s skyDNS) value(_ driver.Instance, host, port string) (string, error) {
	b, err := json.Marshal(skyDNSRecord{host, json.Number(port), s.ttl})
	if err != nil {
		return "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	return string(b), nil
}

func (skyDNS) read(i *driver.Instance, id string, value []byte) error {
	var record skyDNSLocation
	if err := json.Unmarshal(value, &record); err != nil {
		return fmt.Errorf("%w: want a JSON object with host and port: %w", driver.ErrInvalid, err)
	}
	i.InstanceID = id
	var err error
	// One without a port is the record of a name, and not of a service.
	i.Addr, err = address(record.Host, record.Port.String())
	return err
}

// The limits of a name in DNS, without the dot at its end.
const (
	maxLabel = 63
	maxName  = 253
)

// review says who does not find i. CoreDNS asks for a name in lower case, makes a segment of
// the key of each label, and finds it to the letter; its SRV records point to
// the name that the whole key comes to.
func (s skyDNS) review(i driver.Instance) error {
	for label := range strings.SplitSeq(i.Service, "/") {
		if problem := labelProblem(label, ""); problem != "" {
			return hint.With(fmt.Errorf("CoreDNS and SkyDNS do not find service %q: %s", i.Service, problem),
				fmt.Sprintf("name it with lower-case letters, digits and '-', %d at most", maxLabel))
		}
	}
	id, err := s.id(i, "", "")
	if err != nil {
		return nil
	}
	labels := strings.Split(i.Service, "/")
	slices.Reverse(labels)
	name := id + "." + strings.Join(labels, ".") + "." + s.domain
	switch problem := labelProblem(id, ":"); {
	case len(id) > maxLabel, len(name) > maxName:
		return hint.With(fmt.Errorf("CoreDNS and SkyDNS answer no SRV query for service %q: the id %q makes the name %q, and DNS has %d letters for a label and %d for a name",
			i.Service, id, name, maxLabel, maxName), "give it a shorter id")
	case problem != "":
		return hint.With(fmt.Errorf("CoreDNS and SkyDNS do not find the target of the SRV record of service %q, %q: %s", i.Service, name, problem),
			"give it an id of lower-case letters, digits, '-' and ':'")
	}
	return nil
}

// labelProblem says why a name of DNS that CoreDNS looks for never comes to this segment of
// a key, or nothing.
func labelProblem(label, also string) string {
	switch {
	case label == "":
		return "a label of it is empty"
	case label == "any" || label == "*":
		return fmt.Sprintf("%q stands for every name", label)
	case len(label) > maxLabel:
		return fmt.Sprintf("a label has %d letters", len(label))
	case strings.Contains(label, "."):
		return "a dot parts two labels"
	case strings.ToLower(label) != label:
		return "names are asked for in lower case"
	case strings.ContainsFunc(label, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && !strings.ContainsRune(also, r)
	}):
		return "it has letters that names are written without"
	}
	return ""
}
