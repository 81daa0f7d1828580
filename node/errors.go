package node

import (
	"errors"
	"fmt"

	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
	"github.com/musterhq/muster/node/mastership"
)

// Errors of a node, to be tested with errors.Is.
var (
	// ErrDuplicateNodeID ends a node that has learnt of another live one with its
	// node id that was started later.
	ErrDuplicateNodeID = membership.ErrDuplicateNodeID

	// ErrAddressChanged ends a node whose advertised address has become another one,
	// as where its name resolves differently. Start it again.
	ErrAddressChanged = errors.New("the address to advertise has changed")

	// ErrRefused means that a node answers at an address and will not have us, or that
	// we will not have it: it may be of another cluster, or demand another certificate.
	ErrRefused = errors.New("refused")

	// ErrNoAnswer means that a node of the cluster answers at an address and is of a
	// version that cannot be asked who it is.
	ErrNoAnswer = errors.New("it cannot say who it is")

	// ErrLeft means that the instance which was dialed has left: another process answers at its
	// address, or it said so.
	ErrLeft = link.ErrLeft

	// ErrNoListener means that the member which was dialed has no listener for the protocol.
	ErrNoListener = errors.New("no listener for this protocol")

	// ErrBusy means that too many connections wait for the listener that was dialed.
	ErrBusy = errors.New("too many connections wait to be accepted")

	// ErrStopped means that the node has ended: by Leave, or by itself, and then Err says why.
	ErrStopped = mastership.ErrStopped

	// ErrNoMaster means that no master is known.
	ErrNoMaster = mastership.ErrNoMaster

	// ErrNoAuthority means that no provider grants this node mastership, now or later: no
	// other reason keeps WhileMaster from ever running its function. It is an ErrNoMaster.
	ErrNoAuthority = fmt.Errorf("%w: no provider grants mastership", ErrNoMaster)
)

// Errors to be had with errors.As, for what they carry.
type (
	// NotMasterError names the master to turn to.
	NotMasterError = mastership.NotMasterError
	// NoQuorumError says how many members are seen and how many are needed.
	NoQuorumError = mastership.NoQuorumError
)
