package consul

import "net/url"

// layout is the version of the keys and values. Programs with another version do not
// see each other's keys.
const layout = "v1"

// keys knows where everything stands in the KV store:
//
//	<prefix>/v1/clusters/<cluster>/master   who is master; locked while somebody is
//	<prefix>/v1/clusters/<cluster>/term     the last term granted
//	<prefix>/v1/clusters/<cluster>/id       the cluster id
//	<prefix>/v1/records/<cluster>/<key>     a record
//	<prefix>/v1/alive/<session>             locked while the session lives (catalog.go)
//
// The name of a cluster is escaped as a segment of a URL, so that a slash in it makes
// no other segment; the key of a record is kept as it is.
type keys struct{ root string }

func newKeys(prefix string) keys { return keys{prefix + "/" + layout + "/"} }

func (k keys) cluster(name string) string { return k.root + "clusters/" + url.PathEscape(name) + "/" }

func (k keys) records(cluster string) string {
	return k.root + "records/" + url.PathEscape(cluster) + "/"
}

func (k keys) alive(session string) string { return k.root + "alive/" + session }
