// Package supervise runs a command only while a grant of mastership is valid, as muster
// while-master does.
//
// # Processes
//
// The wrapper follows the grants of an agent. For each run it starts a supervisor, and that a
// stage; both are this program again, and are started ahead of time, so that a run begins at
// once:
//
//	wrapper ── supervisor ── stage, which becomes the command
//
// The stage looks at the clock right before it executes the command: a process that was paused
// since the decision runs nothing. The supervisor is the first process of a PID namespace where
// that is permitted: when it ends, in any way, the kernel kills everything in it. Elsewhere the
// command has a process group, the kernel kills the command when the supervisor dies, and both
// the supervisor and the wrapper adopt what the command leaves behind (Linux), and kill that: each
// process as soon as it is found, until none is left. That takes time, so that it begins earlier
// before the deadline. Processes that were below the wrapper before it began are left alone.
//
// # What is promised
//
// Everything that the command has started is killed before the deadline of the grant, which is
// counted on the boot clock, if the agent dies, hangs, or loses the store: the supervisor and the
// wrapper both watch it. A wrapper that dies takes the supervisor of a namespace with it
// (PDEATHSIG). That of a process group sees it by the end of a pipe, and kills all of the command.
// A supervisor that is stopped is killed by the wrapper.
//
// When mastership is asked back, the command gets SIGTERM, and SIGKILL shortly before the drain
// timeout. Only when all of it has ended does the wrapper say so to the agent, which releases the
// grant. A wrapper that dies says nothing. Its death kills the command, but nobody is left who
// saw that it is dead: the agent keeps the grant until the last deadline that the wrapper knew.
//
// There is one command for each lock file. The command inherits the open file, so that the lock
// is taken as long as any process of it is left that has not closed its files: a wrapper that was
// killed and started again waits for it, and does not run a second command beside an orphan.
//
// # What is not promised
//
// If the wrapper and the supervisor are both stopped (SIGSTOP, a frozen cgroup), nobody kills the
// command, until they go on. A process in an uninterruptible sleep dies when the kernel lets it.
// Without a PID namespace, what the command has started survives if the wrapper and the supervisor
// are killed in the same moment; on other systems than Linux, also if it leaves the group. A
// process of before the wrapper that starts others and ends has them killed with a supervisor.
// What the command has sent before it was killed may arrive later. In all these cases the term
// protects: the receiver rejects a term below the highest that it has seen.
//
// # How it is built and tested
//
// What the wrapper decides is a machine without goroutines, clock or processes (machine.go). The
// tests run it through thousands of random histories, in which agents stall, streams break,
// commands hang and wrappers die, and a checker that knows the true state verifies the promises.
// It is shown to notice broken variants.
package supervise
