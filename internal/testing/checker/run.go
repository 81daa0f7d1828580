package checker

import (
	"time"

	"github.com/musterhq/muster/node/history/check"
)

// Run is what is known of one attack on one cluster.
type Run struct {
	Bounds Bounds
	// Logs are the histories, one of each host, in any order.
	Logs []Log
	// Lives are the processes that the harness started.
	Lives []Life
	// Faults are what the harness did to hosts and the ways between them.
	Faults []Fault
	// Notes are those of all programs, in any order.
	Notes []Note
	// Applied is what the register accepted, in its own order.
	Applied []Applied
	// Forgotten are the moments at which the records of the cluster were wiped or restored.
	Forgotten []int64
	// Listings are answers of the registry after Quiet, in order.
	Listings []Listing
	// Quiet is when the last fault had healed, and End when the harness stopped
	// looking, before it stopped the processes. With Quiet 0 nothing is said of how
	// the cluster recovers.
	Quiet, End int64
}

// Bounds are how long things may take. A bound of 0 is not checked.
type Bounds struct {
	// Voters are the hosts of which a master needs a majority.
	Voters []string
	// Isolation is how long a master may go on without that majority.
	Isolation time.Duration
	// Clear is how long a node may name a master after its mastership was over.
	Clear time.Duration
	// Master and Component bound the time from Quiet until there is one master, and
	// one component.
	Master, Component time.Duration
	// Registry is how long after Quiet the registry may list wrong instances.
	Registry time.Duration
	// Hearsay is how long a node may name a master that never was one, where a member lies: 0
	// where none does.
	Hearsay time.Duration
	// Revoked says that an operator took grants away. Then another may be granted while
	// functions of the master before still act: that one is no master any more, but
	// only the register can refuse what they do.
	Revoked bool
	// ClocksBroken says that clocks ran at rates outside of what mastership assumes:
	// masterships may overlap then, and only terms protect (I2, I6 and I12 are not
	// checked).
	ClocksBroken bool
}

// Log is the history of a host: of all processes that ran there, one after another.
type Log = check.Log

// Life is one process. End is when it was certainly dead, or 0.
type Life = check.Life

// FaultKind is what was done.
type FaultKind string

// The kinds of faults that the checker has to know of.
const (
	// Pause: the process on Host did not run.
	Pause FaultKind = "pause"
	// Cut: what From sends does not reach To.
	Cut FaultKind = "cut"
	// StoreCut: Host does not reach the store.
	StoreCut FaultKind = "store cut"
	// StoreOut: the store takes no writes from anybody.
	StoreOut FaultKind = "store out"
	// Stall: the whole machine stood still, as far as the harness could tell by its own
	// timers. It is no excuse for what must never be, and does not count where time is
	// bounded.
	Stall FaultKind = "stall"
)

// Fault lasts from Begin to End, or without end if End is 0.
type Fault struct {
	Kind       FaultKind
	Host       string
	From, To   string
	Begin, End int64
}

// NoteKind says what a Note tells.
type NoteKind string

// The kinds of notes.
const (
	// WorkBegin and WorkEnd are of a function that a node runs while it is master.
	WorkBegin NoteKind = "work_begin"
	WorkEnd   NoteKind = "work_end"
	// Sample: the node said that it is master in Term when it was asked at BootNS.
	Sample NoteKind = "sample"
	// Write and Read are operations of the register, from BootNS to ReturnNS, which
	// is 0 where no answer came.
	Write NoteKind = "write"
	Read  NoteKind = "read"
	// StepBegin and StepEnd are of a run of version Version of the upgrade Name, and JobBegin and
	// JobEnd of one of the job Name that was scheduled for Scheduled.
	StepBegin NoteKind = "step_begin"
	StepEnd   NoteKind = "step_end"
	JobBegin  NoteKind = "job_begin"
	JobEnd    NoteKind = "job_end"
	// GateOpen and GateFailed are what a gate came to, and Term is that of the run whose end is
	// recorded, 0 if that is not known. AskedNS is when it was asked.
	GateOpen   NoteKind = "gate_open"
	GateFailed NoteKind = "gate_failed"
	// Retried and Resolved: an operator decides, and this is noted before it is recorded.
	Retried  NoteKind = "retried"
	Resolved NoteKind = "resolved"
	// CallBegin is noted before a call with the id Value, and CallEnd once it has ended; CallRun is
	// noted first by a handler that serves it, and CallRan last.
	CallBegin NoteKind = "call_begin"
	CallEnd   NoteKind = "call_end"
	CallRun   NoteKind = "call_run"
	CallRan   NoteKind = "call_ran"
	// Beat is of a command that runs while a node is master, which writes many: InstanceID is that
	// of the run.
	Beat NoteKind = "beat"
)

// The ways of a call, as Name of a CallBegin: to the member of an instance id, to that of a node
// id, and to the master. To is that id.
const (
	ToMember = "member"
	ToNode   = "node"
	ToMaster = "master"
)

// HandlerError is the Result of a call that ended with an error of the handler.
const HandlerError = "error"

// Note is what a program that embeds a node recorded, as a line of JSON.
type Note struct {
	Kind       NoteKind `json:"kind"`
	BootNS     int64    `json:"t_boot_ns"`
	InstanceID string   `json:"instance_id"`
	Term       uint64   `json:"term,omitempty"`
	// EarlierDone, of WorkBegin, says that the context of the term before had ended.
	EarlierDone bool `json:"earlier_done,omitempty"`

	ReturnNS int64  `json:"return_ns,omitempty"`
	Value    string `json:"value,omitempty"` // written
	// Accepted, Seen and SeenTerm are the register's answer: Seen is the value that
	// it held before a write that was accepted, or else holds.
	Accepted bool   `json:"accepted,omitempty"`
	Seen     string `json:"seen,omitempty"`
	SeenTerm uint64 `json:"seen_term,omitempty"`

	AskedNS   int64  `json:"asked_ns,omitempty"`
	Name      string `json:"name,omitempty"`
	Version   int    `json:"version,omitempty"`
	Scheduled int64  `json:"scheduled,omitempty"` // wall time, in nanoseconds
	// Again says that it may run again where it was interrupted, and OK that it has ended well.
	Again bool `json:"again,omitempty"`
	OK    bool `json:"ok,omitempty"`

	// DeadlineNS is that of a call. Result names how it ended, and is empty where that has no name;
	// MayHaveRun is what the caller was told, and Seen and SeenTerm are the answer: the instance
	// that served it, and in which term. Again says that it may be sent again. Term, of CallRun and
	// CallRan, is 0 where the call was not to the master, and Caller is who the handler was told
	// to serve.
	To         string `json:"to,omitempty"`
	DeadlineNS int64  `json:"deadline_ns,omitempty"`
	Result     string `json:"result,omitempty"`
	MayHaveRun bool   `json:"may_have_run,omitempty"`
	Caller     string `json:"caller,omitempty"`
}

// Applied is a write that the register accepted at BootNS.
type Applied struct {
	BootNS int64
	Term   uint64
	Value  string
}

// Listing is what the registry listed.
type Listing struct {
	BootNS    int64
	Instances []string
}
