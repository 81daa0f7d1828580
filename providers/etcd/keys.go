package etcd

import (
	"net/url"
	"strings"
)

// version is that of the keys and values. Programs with another version do not
// see each other's keys.
const version = "v1"

// keys makes Muster's own keys:
//
//	<prefix>/v1/services/<service>/<instance>   a registration
//	<prefix>/v1/clusters/<cluster>/master       who is master
//	<prefix>/v1/clusters/<cluster>/term         the last term granted
//	<prefix>/v1/clusters/<cluster>/id           the cluster id
//	<prefix>/v1/records/<cluster>/<key>         a record
//
// Names are escaped as a segment of a URL, so that a slash in one makes no other
// segment; the key of a record is kept as it is. What is read by prefix ends with
// a slash, so that "foo" never sees "foobar".
type keys struct{ root string }

func newKeys(prefix string) keys { return keys{prefix + "/" + version + "/"} }

func (k keys) services() string { return k.root + "services/" }

func (k keys) service(name string) string { return k.services() + url.PathEscape(name) + "/" }

func (k keys) instance(service, id string) string { return k.service(service) + url.PathEscape(id) }

func (k keys) cluster(name string) string { return k.root + "clusters/" + url.PathEscape(name) + "/" }

func (k keys) records(cluster string) string {
	return k.root + "records/" + url.PathEscape(cluster) + "/"
}

// owns reports whether key is one of the authority's or a record.
func (k keys) owns(key string) bool {
	return strings.HasPrefix(key, k.root+"clusters/") || strings.HasPrefix(key, k.root+"records/")
}

// segment undoes the escaping of the one segment that follows prefix in key. It
// is false if that is not one segment as we write it.
func segment(prefix, key string) (string, bool) {
	escaped, ok := strings.CutPrefix(key, prefix)
	if !ok || escaped == "" {
		return "", false
	}
	name, err := url.PathUnescape(escaped)
	if err != nil || url.PathEscape(name) != escaped {
		return "", false
	}
	return name, true
}
