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

	// ErrRefused means that a node answers at an address and will not have us, or that
	// we will not have it: it may be of another cluster, or demand another certificate.
	ErrRefused = errors.New("refused")

	// ErrNoAnswer means that a node of the cluster answers at an address and is of a
	// version that cannot be asked who it is.
	ErrNoAnswer = errors.New("it cannot say who it is")

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
