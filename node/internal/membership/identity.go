package membership

import (
	"errors"
	"strings"
)

// ErrDuplicateNodeID ends a membership that has learnt of another live instance
// with its node id that was started later.
var ErrDuplicateNodeID = errors.New("duplicate node id")

// identity is one start of a node. The claim orders the starts.
type identity struct {
	nodeID     string
	instanceID string
	claim      int64 // Unix ms of the start, by the clock of its host
}

// newerThan reports whether i is the later start of the two. It is a strict total
// order over the instances of a node, so that all who know both agree.
func (i identity) newerThan(j identity) bool {
	if i.claim != j.claim {
		return i.claim > j.claim
	}
	return i.instanceID > j.instanceID
}

// shortInstance is how much of the instance id goes into a memberlist name. It
// makes names unique, which memberlist relies on: under a name that it knows it
// takes a restarted process for the old one, or refuses its new address.
const shortInstance = 12

func memberName(nodeID, instanceID string) string {
	return nodeID + "~" + instanceID[:shortInstance]
}

// splitName is the reverse of memberName. A node id may contain a tilde; what
// follows the last one cannot.
func splitName(name string) (nodeID, instance string, ok bool) {
	at := strings.LastIndexByte(name, '~')
	if at < 1 || len(name)-at-1 != shortInstance {
		return "", "", false
	}
	return name[:at], name[at+1:], true
}
