package node

import (
	"errors"

	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/node/membership"
)

// Errors of a node, to be tested with errors.Is.
var (
	// ErrDuplicateNodeID ends a node that has learnt of another live one with its
	// node id that was started later.
	ErrDuplicateNodeID = membership.ErrDuplicateNodeID

	// ErrAddressChanged ends a node whose advertised address has become another one,
	// as where its name resolves differently. Start it again.
	ErrAddressChanged = errors.New("the address to advertise has changed")

	// ErrNoMaster means that no master is known.
	ErrNoMaster = mastership.ErrNoMaster
)

// Errors to be had with errors.As, for what they carry.
type (
	// NotMasterError names the master to turn to.
	NotMasterError = mastership.NotMasterError
	// NoQuorumError says how many members are seen and how many are needed.
	NoQuorumError = mastership.NoQuorumError
)
