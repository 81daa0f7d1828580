package checker

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// searchLimit bounds the search for an order of the register's operations.
const searchLimit = 2 * time.Minute

// content is the state of the register.
type content struct {
	term  uint64
	value string
}

// fencedRegister is the register as it should be: a write is accepted if no write of
// a higher term was before, and is told what it has replaced.
var fencedRegister = porcupine.Model{
	Init: func() any { return content{} },
	Step: func(state, input, output any) (bool, any) {
		now, n := state.(content), input.(Note)
		switch {
		case n.Kind == Read:
			return n.Seen == now.value && n.SeenTerm == now.term, now
		case n.ReturnNS == 0: // carried out, and nobody heard the answer
			return n.Term >= now.term, content{n.Term, n.Value}
		case n.Accepted:
			return n.Term >= now.term && n.Seen == now.value, content{n.Term, n.Value}
		default:
			return n.Term < now.term && n.SeenTerm == now.term, now
		}
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, _ any) string {
		n := input.(Note)
		return fmt.Sprintf("%s %q in term %d: accepted %v, seen %q of term %d", n.Kind, n.Value, n.Term, n.Accepted, n.Seen, n.SeenTerm)
	},
}

// linearisable verifies REG. An operation without an answer is looked up in the
// register's own log: it was carried out by the time that is written there, or never.
func (c *check) linearisable() {
	applied := make(map[string]int64)
	for _, a := range c.Applied {
		applied[a.Value] = a.BootNS
	}
	clients := make(map[string]int)
	var operations []porcupine.Operation
	for _, n := range c.Notes {
		if n.Kind != Write && n.Kind != Read {
			continue
		}
		at, carriedOut := applied[n.Value]
		returned := n.ReturnNS
		switch {
		case returned == 0 && n.Kind == Read:
			continue
		case returned == 0 && !carriedOut:
			continue
		case returned == 0:
			returned = max(at, n.BootNS)
		case n.Kind == Write && n.Accepted != carriedOut:
			c.violate("REG", "a write of %q in term %d at %s was answered accepted %v, and the register's log has it %v",
				n.Value, n.Term, stamp(n.BootNS), n.Accepted, carriedOut)
			continue
		}
		client, known := clients[n.InstanceID]
		if !known {
			client = len(clients)
			clients[n.InstanceID] = client
		}
		operations = append(operations, porcupine.Operation{ClientId: client, Input: n, Call: n.BootNS, Output: n, Return: returned})
	}
	switch porcupine.CheckOperationsTimeout(fencedRegister, operations, searchLimit) {
	case porcupine.Illegal:
		c.violate("REG", "no order of the %d operations explains what the register answered", len(operations))
	case porcupine.Unknown:
		c.violate("REG", "no order of the %d operations was found within %v", len(operations), searchLimit)
	}
}
