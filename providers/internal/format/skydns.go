package format

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// SkyDNS returns the layout of SkyDNS 2 and of CoreDNS, which answer queries for
// SERVICE.DOMAIN from it:
//
//	/skydns/local/cluster/redis/redis-1 = {"host":"10.0.0.5","port":6379}
//
// Root is what all keys start with, its slash included, such as "/skydns/", and
// domain is such as "cluster.local". The instance id is the id in the key, and
// the other way round: that of a Muster node is a good label of DNS. An instance
// without one has its node id there.
func SkyDNS(root, domain string) KV {
	labels := strings.Split(strings.TrimSuffix(domain, "."), ".")
	slices.Reverse(labels)
	return KV{root + strings.Join(labels, "/") + "/", skyDNS{}}
}

// IsDomain reports whether each label of name can be a segment of a key.
func IsDomain(name string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || strings.ContainsAny(label, "/ ") {
			return false
		}
	}
	return true
}

type skyDNS struct{}

// skyDNSRecord is the value. There may be more in it, such as a weight.
type skyDNSRecord struct {
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

func (skyDNS) value(_ driver.Instance, host, port string) (string, error) {
	b, err := json.Marshal(skyDNSRecord{host, json.Number(port)})
	if err != nil {
		return "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	return string(b), nil
}

func (skyDNS) read(i *driver.Instance, id string, value []byte) error {
	var record skyDNSRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return fmt.Errorf("%w: want a JSON object with host and port: %w", driver.ErrInvalid, err)
	}
	i.InstanceID = id
	var err error
	// One without a port is the record of a name, and not of a service.
	i.Addr, err = address(record.Host, record.Port.String())
	return err
}
