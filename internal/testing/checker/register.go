package checker

import (
	"cmp"
	"fmt"
	"slices"
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
func (c *run) linearisable() {
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
	slices.SortStableFunc(operations, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	before := content{}
	for begin := 0; begin < len(operations); {
		end, over := pieceOf(operations[begin:])
		end += begin
		after := c.contentAt(over)
		if !c.explained(operations[begin:end], before, after, over) {
			return
		}
		begin, before = end, after
	}
}

// pieceSize is how many operations are looked at together, at least: the search
// takes memory by the square of it.
const pieceSize = 1000

// pieceOf returns how many operations to look at first: up to a moment at which none
// was under way, which is the second result.
func pieceOf(operations []porcupine.Operation) (n int, over int64) {
	for n < len(operations) && (n < pieceSize || operations[n].Call <= over) {
		over = max(over, operations[n].Return)
		n++
	}
	return n, over
}

// contentAt is what the register held at a moment, by its own log.
func (c *run) contentAt(t int64) content {
	i := len(c.Applied)
	for i > 0 && c.Applied[i-1].BootNS > t {
		i--
	}
	if i == 0 {
		return content{}
	}
	return content{c.Applied[i-1].Term, c.Applied[i-1].Value}
}

// explained reports whether there is an order of the operations that leads from one
// content to the other.
func (c *run) explained(operations []porcupine.Operation, before, after content, over int64) bool {
	model := fencedRegister
	model.Init = func() any { return before }
	last := Note{Kind: Read, BootNS: over + 1, ReturnNS: over + 2, Seen: after.value, SeenTerm: after.term}
	operations = append(slices.Clone(operations), porcupine.Operation{ClientId: len(operations), Input: last, Call: last.BootNS, Output: last, Return: last.ReturnNS})
	verdict := porcupine.CheckOperationsTimeout(model, operations, searchLimit)
	switch verdict {
	case porcupine.Illegal:
		c.violate("REG", "no order of %d operations from %s to %s explains what the register answered", len(operations)-1, stamp(operations[0].Call), stamp(over))
	case porcupine.Unknown:
		c.violate("REG", "no order of %d operations from %s to %s was found within %v", len(operations)-1, stamp(operations[0].Call), stamp(over), searchLimit)
	}
	return verdict == porcupine.Ok
}
