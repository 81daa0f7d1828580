//go:build musterfault

package node

import (
	"fmt"

	"github.com/musterhq/muster/node/mastership"
)

// Lie announces a to the other members as if this node's elector had, in programs that are
// built with the tag musterfault. Lies of one kind replace each other.
func (n *Node) Lie(kind int, a mastership.Announcement) error {
	return n.members.Broadcast(fmt.Sprintf("lie-%d", kind), a.Encode())
}
