package format

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// KV is how one system keeps instances in a key-value store: each under a key of
// its own, root + service + "/" + id. [Hazelcast], [Registrator] and [SkyDNS] return
// one. It is safe for concurrent use.
type KV struct {
	root string
	system
}

// system is what the systems differ in.
type system interface {
	// id returns the last segment of the key of i, which is reached at host and
	// port.
	id(i driver.Instance, host, port string) (string, error)
	// value returns the record of i.
	value(i driver.Instance, host, port string) (string, error)
	// read completes i, which has its service, by what id and value say.
	read(i *driver.Instance, id string, value []byte) error
}

// Prefix returns what the keys of the instances of service start with. It ends
// with a slash, so that "foo" never sees "foobar".
func (kv KV) Prefix(service string) string { return kv.root + service + "/" }

// Root is what the keys of all services start with.
func (kv KV) Root() string { return kv.root }

// Service returns the name of the service whose instance has key, and false if it
// is that of none, or of one that no instance of ours can have. It says nothing about the value.
func (kv KV) Service(key string) (string, bool) {
	path, ok := strings.CutPrefix(key, kv.root)
	end := strings.LastIndexByte(path, '/')
	if oddSegment(path[:max(end, 0)]) {
		return "", false
	}
	if _, leaf := kv.Leaf(path); ok && leaf && end < 0 && path != "" {
		return path, true
	}
	if !ok || end <= 0 || end == len(path)-1 {
		return "", false
	}
	return path[:end], true
}

// Of reports whether key may be that of a record of service: it is below its prefix, or its
// leaf.
func (kv KV) Of(service, key string) bool {
	leaf, has := kv.Leaf(service)
	return has && key == leaf || strings.HasPrefix(key, kv.Prefix(service))
}

// Review returns an error if some readers of these records do not find i.
func (kv KV) Review(i driver.Instance) error {
	if s, ok := kv.system.(interface{ review(driver.Instance) error }); ok {
		return s.review(i)
	}
	return nil
}

// RecordKey returns the key of i, which no other instance can have, or nothing if it has none.
func (kv KV) RecordKey(i driver.Instance) string {
	key, _, err := kv.Encode(i)
	if err != nil {
		return ""
	}
	return key
}

// Encode returns the key and the value of i. The error wraps driver.ErrInvalid if
// nobody could dial i, or if its names do not fit the system.
func (kv KV) Encode(i driver.Instance) (key, value string, err error) {
	if err := i.Validate(); err != nil {
		return "", "", err
	}
	host, port, err := split(i.Addr)
	if err != nil {
		return "", "", err
	}
	id, err := kv.id(i, host, port)
	if err != nil {
		return "", "", err
	}
	if strings.Contains(id, "/") {
		return "", "", fmt.Errorf("%w: id %q has a slash, and would be a nested key", driver.ErrInvalid, id)
	}
	path := i.Service + "/" + id
	if oddSegment(path) {
		return "", "", fmt.Errorf("%w: key %q has an empty segment or one of dots alone, which may stand for another key", driver.ErrInvalid, path)
	}
	value, err = kv.value(i, host, port)
	return kv.root + path, value, err
}

// oddSegment reports whether a part of a path is such as stores, and what stands before
// them, take for a step to another one.
func oddSegment(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." || segment == "" && path != "" {
			return true
		}
	}
	return false
}

// Decode reads the record of service at key. The error wraps
// driver.ErrInvalid and says what is wrong.
func (kv KV) Decode(service, key string, value []byte) (driver.Instance, error) {
	id, ok := strings.CutPrefix(key, kv.Prefix(service))
	leaf, may := kv.Leaf(service)
	atLeaf := may && key == leaf
	switch {
	case atLeaf: // without an id, and known by its address
	case !ok || id == "":
		return driver.Instance{}, fmt.Errorf("%w: the key names no instance of %s", driver.ErrInvalid, service)
	case strings.Contains(id, "/"):
		return driver.Instance{}, fmt.Errorf("%w: the key is nested; instances stand right below their service", driver.ErrInvalid)
	}
	i := driver.Instance{Service: service}
	if err := kv.read(&i, id, value); err != nil {
		return driver.Instance{}, err
	}
	if atLeaf {
		i.InstanceID = ""
	}
	return i, nil
}

// Normalize returns what is left of i once it was written and read back, or i itself
// where it cannot be written.
func (kv KV) Normalize(i driver.Instance) driver.Instance {
	key, value, err := kv.Encode(i)
	if err != nil {
		return i
	}
	reduced, err := kv.Decode(i.Service, key, []byte(value))
	if err != nil {
		return i
	}
	return reduced
}

// address returns the HOST:PORT of what is written in two parts.
func address(host, port string) (string, error) {
	host, port, err := split(net.JoinHostPort(host, port))
	return net.JoinHostPort(host, port), err
}

// split returns the two parts of an address that others can dial, the port as it
// is usually written.
func split(addr string) (host, port string, err error) {
	if err := driver.ValidateAddr(addr); err != nil {
		return "", "", err
	}
	host, port, err = net.SplitHostPort(addr)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	return host, strconv.FormatUint(n, 10), nil
}
