package call

import (
	"encoding/json"

	"google.golang.org/grpc/metadata"

	"github.com/musterhq/muster/node"
)

// protocol is that of the one port which carries calls.
const protocol = "muster.call"

// What travels with a call beside what gRPC and the caller put there. Keys are never used again
// for something else.
const (
	// termKey, of a request, says that it is for the master, and the term in which the caller
	// believes it to be: a decimal number.
	termKey = "muster-term"
	// markKey, of a trailer, is one of the marks below. A second value is the instance that has put
	// it there: a handler that passes on the trailer of a call of its own must not be believed.
	markKey = "muster-mark"
	// masterKey, of a trailer, is a namedMaster as JSON.
	masterKey = "muster-master-bin"
)

// The marks. Each error has one, unless it is of gRPC itself.
const (
	markFailed     = "failed"     // run with the error that came back
	markNotMaster  = "not-master" // not run: the node is not master; see masterKey
	markNotReady   = "not-ready"  // not run: the node serves no calls now
	markNoHandler  = "no-handler" // not run: the method is not known
	markOverloaded = "overloaded" // not run: see Limit
	markUncertain  = "uncertain"  // run without an error, and the mastership ended before that
	markEnded      = "ended"      // run with the error that came back, and the mastership ended before that
)

// namedMaster is the master that a node names instead of itself.
type namedMaster struct {
	Term       node.Term `json:"term"`
	NodeID     string    `json:"node_id"`
	InstanceID string    `json:"instance_id"`
	Addr       string    `json:"addr"`
}

// trailer is what a node puts into the trailer of a call.
func trailer(mark, instance string, master *namedMaster) metadata.MD {
	md := metadata.MD{markKey: {mark, instance}}
	if master != nil {
		text, err := json.Marshal(master)
		if err == nil {
			md[masterKey] = []string{string(text)}
		}
	}
	return md
}

// markOf returns the mark that an instance has put into a trailer, and "" if there is none.
func markOf(md metadata.MD, instance string) string {
	if v := md[markKey]; len(v) == 2 && v[1] == instance {
		return v[0]
	}
	return ""
}

// masterIn returns the master that a trailer names, if any.
func masterIn(md metadata.MD) (m namedMaster, ok bool) {
	v := md[masterKey]
	if len(v) != 1 || json.Unmarshal([]byte(v[0]), &m) != nil {
		return namedMaster{}, false
	}
	return m, m.Term > 0 && m.InstanceID != ""
}
