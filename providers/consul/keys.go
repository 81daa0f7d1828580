package consul

import "strings"

// layout is the version of the keys and values. Programs with another version do not
// see each other's keys.
const layout = "v1"

// keys makes the keys in the KV store:
//
//	<prefix>/v1/clusters/<cluster>/mastership  who is master, and the last term
//	<prefix>/v1/records/<cluster>/<key>          a record
//	<prefix>/v1/alive/<session>                  locked while the session lives (catalog.go)
//
// The name of a cluster is escaped as a segment of a URL, so that a slash in it makes
// no other segment; the key of a record is kept as it is.
type keys struct{ root string }

func newKeys(prefix string) keys { return keys{prefix + "/" + layout + "/"} }

func (k keys) livenessKey(session string) string { return k.root + "alive/" + session }

// owns reports whether key is one of those, which no registration may have.
func (k keys) owns(key string) bool { return strings.HasPrefix(key, k.root) }
