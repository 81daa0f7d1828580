package format

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// Registrator returns the layout of registrator's backends etcd and consulkv:
//
//	/services/redis/host1:redis.0:6379 = 10.0.0.5:32768
//
// Root is what all keys start with, its slash included, if it has one; host is
// the name of this host. The instance id is the id in the key, and the node id
// the container in it, if it has the form that names one. What
// registers has an id as RegistratorID makes it.
func Registrator(root, host string) KV { return KV{root, registrator{host}} }

type registrator struct{ host string }

func (r registrator) id(i driver.Instance, _, port string) (string, error) {
	return RegistratorID(r.host, i, port)
}

func (registrator) value(_ driver.Instance, host, port string) (string, error) {
	return net.JoinHostPort(host, port), nil
}

func (registrator) read(i *driver.Instance, id string, value []byte) error {
	// Who puts a file there by hand has put a line.
	host, port, err := split(strings.TrimSpace(string(value)))
	if err != nil {
		return err
	}
	i.InstanceID = id
	i.NodeID = RegistratorNode(id)
	i.Addr = net.JoinHostPort(host, port)
	return nil
}

// registratorID is the form of registrator's ids: host, container and its port.
var registratorID = regexp.MustCompile(`^[^:/]+:([A-Za-z0-9_.-]+):[0-9]+(?::(?:udp|sctp))?$`)

// minted is the form of the ids that nodes give themselves at each start.
var minted = regexp.MustCompile(`^[0-9a-f]{32}$`)

// RegistratorID returns the id of i, which runs on host: its instance id where somebody
// chose it, as registrator keeps a SERVICE_ID. There are readers that take the container's
// port from the id, for whose readers the random one of a node says nothing: in its place, in
// that of one with a slash, which would be a nested key, and if there is none stands
// HOST:NODE:PORT, with the node id in place of the container's name or, where there is
// none, the instance id. The error wraps driver.ErrInvalid where these names do not fit
// the form.
func RegistratorID(host string, i driver.Instance, port string) (string, error) {
	if i.InstanceID != "" && !minted.MatchString(i.InstanceID) && !strings.Contains(i.InstanceID, "/") {
		return i.InstanceID, nil
	}
	id := host + ":" + cmp.Or(i.NodeID, i.InstanceID) + ":" + port
	if !registratorID.MatchString(id) {
		return "", fmt.Errorf("%w: %q is no id of registrator, HOST:NODE:PORT; write letters, digits, '-', '_' and '.' in the node id", driver.ErrInvalid, id)
	}
	return id, nil
}

// RegistratorNode returns the container that one of registrator's ids names, and "" if id has
// another form.
func RegistratorNode(id string) string {
	if parts := registratorID.FindStringSubmatch(id); parts != nil {
		return parts[1]
	}
	return ""
}
