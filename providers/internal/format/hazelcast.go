package format

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// hazelcastTime is yyyy.MM.dd HH:mm:ss.SSS Z as Java has it.
const hazelcastTime = "2006.01.02 15:04:05.000 -0700"

// Hazelcast returns the layout of hazelcast-etcd-discovery-spi:
//
//	/orders/orders-10.0.0.5-10.0.0.5-5701 = {"ip":"10.0.0.5","port":5701,"hostname":"10.0.0.5","registeredAt":"2015.11.25 14:25:59.026 +0000"}
//
// Root is what all keys start with, its slash included, if it has one. The id of
// an entry means nothing to its readers and may be any; they use ip and port
// alone. So does Decode, but for a time that can be read. Instances have no
// instance id: they are known by their address, as in a static list.
func Hazelcast(root string) KV { return KV{root, hazelcast{}} }

type hazelcast struct{}

// hazelcastNode is the value. What readers do not use may hold anything.
type hazelcastNode struct {
	IP           string      `json:"ip"`
	Port         json.Number `json:"port"` // also reads a string with a number in it
	Hostname     any         `json:"hostname,omitempty"`
	RegisteredAt any         `json:"registeredAt,omitempty"`
}

func (hazelcast) id(i driver.Instance, host, port string) (string, error) {
	return HazelcastID(i.Service, host, port), nil
}

// HazelcastID returns the id under which the node of service at host and port
// registers itself, in etcd and in Consul. The host is in it twice, as IP
// address and as name, which are the same where the address was configured.
func HazelcastID(service, host, port string) string {
	return service + "-" + host + "-" + host + "-" + port
}

func (hazelcast) value(i driver.Instance, host, port string) (string, error) {
	node := hazelcastNode{IP: host, Port: json.Number(port), Hostname: host}
	if at := i.RegisteredAt.UTC(); !at.IsZero() && at.Year() >= 0 && at.Year() <= 9999 {
		node.RegisteredAt = at.Format(hazelcastTime)
	}
	b, err := json.Marshal(node)
	if err != nil {
		return "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	return string(b), nil
}

func (hazelcast) read(i *driver.Instance, _ string, value []byte) error {
	var node hazelcastNode
	if err := json.Unmarshal(value, &node); err != nil {
		return fmt.Errorf("%w: want a JSON object with ip and port: %w", driver.ErrInvalid, err)
	}
	if text, ok := node.RegisteredAt.(string); ok {
		if at, err := time.Parse(hazelcastTime, text); err == nil {
			i.RegisteredAt = at.UTC()
		}
	}
	var err error
	i.Addr, err = address(node.IP, node.Port.String())
	return err
}
