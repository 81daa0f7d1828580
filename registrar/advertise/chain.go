package advertise

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/hint"
)

// Outcome is how a step of the chain has ended.
type Outcome string

// The outcomes of a step.
const (
	// Found means that the step knows the address. The chain ends there.
	Found Outcome = "found"
	// NotApplicable means that the step has no business here.
	NotApplicable Outcome = "not_applicable"
	// Failed means that the step should know the address and does not.
	Failed Outcome = "failed"
)

// The names of the steps that this package has itself. Those of detectors are their
// own.
const (
	StepConfig     = "config"
	StepEnv        = "env"
	StepBind       = "bind"
	StepKubernetes = "kubernetes"
	StepECS        = "ecs"
	StepNomad      = "nomad"
	StepInterface  = "interface"
)

// Step is what one way of finding the address has answered.
type Step struct {
	Name    string
	Outcome Outcome
	// Addr is the HOST:PORT that was found, empty if none was.
	Addr string
	// Reason says how it was found or why not, in a few words for people. It ends with Hint.
	Reason string
	// Hint says how to fix what is wrong, if that is known.
	Hint string
}

// Explanation is an address and how it was come by.
type Explanation struct {
	// Address is zero if none was found.
	Address
	// Steps are those that were asked, in their order. Where an address was found, the
	// last one has found it, unless Err says why it is not taken.
	Steps []Step
	// Err says why there is no address. It is an error of Resolve.
	Err error
}

// String is the chain on one line: "env: not applicable (...); interface: 10.0.0.5:7946 (...)".
func (e Explanation) String() string {
	parts := make([]string, len(e.Steps))
	for i, s := range e.Steps {
		reported := s.Addr
		if s.Outcome != Found {
			reported = strings.ReplaceAll(string(s.Outcome), "_", " ")
		}
		parts[i] = fmt.Sprintf("%s: %s (%s)", s.Name, reported, s.Reason)
	}
	return strings.Join(parts, "; ")
}

// step is one way of finding the address.
type step struct {
	name string
	find method
	// decides says that the step was told the address, and that no other stands in for
	// it when it fails.
	decides bool
	// inside says that what is found belongs to an interface, and may be an address
	// that leads nowhere from outside.
	inside bool
}

// ask asks the steps in their order until one has found the address. A step of a
// chain is bounded in time, so that one that hangs leaves time for the next.
func ask(ctx context.Context, spec string, steps []step, bound netip.AddrPort, o Options, used Explanation) (candidate, []Step, error) {
	var asked []Step
	var last error
	hostNetwork := false // as a step has said
	for _, s := range steps {
		found, err := s.ask(ctx, bound, len(steps) > 1, o)
		if err == nil {
			best := choose(found, used.Addr)
			if problem := unsound(spec, best, bound, o); problem != nil {
				return candidate{}, append(asked, failed(s, problem)), problem
			}
			if s.inside && !o.AllowInternal && !hostNetwork {
				err = inside(spec, best, o)
			}
			if err == nil {
				asked = append(asked, Step{Name: s.name, Outcome: Found, Addr: best.addr.String(), Reason: best.source})
				return best, asked, stays(spec, asked, used)
			}
		}
		hostNetwork = hostNetwork || errors.Is(err, ErrHostNetwork)
		asked = append(asked, failed(s, err))
		if len(steps) == 1 || s.decides && !errors.Is(err, ErrNotApplicable) {
			return candidate{}, asked, err
		}
		last = err
	}
	return candidate{}, asked, blame(spec, last, asked, o)
}

func (s step) ask(ctx context.Context, bound netip.AddrPort, bounded bool, o Options) ([]candidate, error) {
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.StepTimeout)
		defer cancel()
	}
	return s.find(ctx, bound)
}

// choose takes the best candidate, or the one in use where it is as good.
func choose(found []candidate, used string) candidate {
	best := found[0]
	for _, c := range found {
		if c.rank == best.rank && c.addr.String() == used {
			best = c
			break
		}
	}
	return best
}

// unsound returns what only another setting can fix.
func unsound(spec string, c candidate, bound netip.AddrPort, o Options) error {
	if problem := unusable(c.addr.Addr()); problem != "" {
		return invalid(spec, problem, forms(o))
	}
	if c.addr.Port() == 0 {
		return invalid(spec, fmt.Sprintf("the bound address %v has no port", bound), "listen before the address is resolved")
	}
	return nil
}

// failed is the step of err.
func failed(s step, err error) Step {
	problem, hint := split(err)
	outcome := Failed
	if errors.Is(err, ErrNotApplicable) {
		outcome = NotApplicable
	}
	return Step{Name: s.name, Outcome: outcome, Reason: joined(problem, hint), Hint: hint}
}

// inside returns why an address of an interface leads nowhere from outside, which the
// steps before did not make good.
func inside(spec string, c candidate, o Options) error {
	where := o.Isolated(c.iface)
	if where == "" {
		return nil
	}
	hint := o.Hint
	if hint == "" {
		hint = "publish the port, write HOST:PORT or set " + EnvAddr + ", or set detect.require_external: false where all others are in that network"
	}
	return &noAddress{spec, fmt.Sprintf("%v is an address within %s, and nothing says at which address of its host others reach it", c.addr, where), hint, errInside}
}

// errInside marks the error of inside.
var errInside = errors.New("an address within a container")

// unfound is the error of a chain of which no step has found an address: a line for each
// step that has something to say, as Explain tells them, and the cause first.
type unfound struct {
	spec  string
	lines []string
	hint  string // of the first line
	cause error  // of the last step
}

func (e *unfound) Error() string {
	return fmt.Sprintf("%s: %q: %s", Key, e.spec, strings.Join(e.lines, "\n"))
}

// Hint is that of the cause, which is the first line.
func (e *unfound) Hint() string { return e.hint }

func (e *unfound) Is(target error) bool { return target == ErrNoAddress }

func (e *unfound) Unwrap() error { return e.cause }

// blame returns the error of a chain whose last step has failed with last. A step that
// should have known the address and did not is the cause; the last one, which is there for
// want of a better, comes after those. Why a detector does not apply is reported behind it, where
// an address within a container is all there is: that there is no engine to ask may be what
// is to be put right.
func blame(spec string, last error, asked []Step, o Options) error {
	before, final := asked[:len(asked)-1], asked[len(asked)-1]
	e := &unfound{spec: spec, cause: last}
	say := func(s Step) {
		if len(e.lines) == 0 {
			e.hint = s.Hint
		}
		e.lines = append(e.lines, s.Name+": "+s.Reason)
	}
	for _, s := range before {
		if s.Outcome == Failed {
			say(s)
		}
	}
	say(final)
	for _, s := range before {
		isDetector := slices.ContainsFunc(o.Detectors, func(d Detector) bool { return d.Name() == s.Name })
		if s.Outcome == NotApplicable && isDetector && errors.Is(last, errInside) {
			say(s)
		}
	}
	return e
}

// stays returns why what the last step has found does not take the place of the
// address in use: that one was found by a step before it, which does not find it now.
// An engine that is being restarted, or a registry that is, moves no node.
func stays(spec string, asked []Step, used Explanation) error {
	if used.Addr == "" || len(used.Steps) == 0 {
		return nil
	}
	winner := used.Steps[len(used.Steps)-1].Name
	for _, s := range asked[:len(asked)-1] {
		if s.Name == winner {
			return &noAddress{spec, fmt.Sprintf("%s, which has found %s, does not find it again: %s", winner, used.Addr, s.Reason), fmt.Sprintf("it stays until %s finds another", winner), nil}
		}
	}
	return nil
}

// split returns the problem of an error of a step, without what all of them repeat, and the hint.
func split(err error) (problem, how string) {
	var n *noAddress
	if errors.As(err, &n) {
		return n.problem, n.hint
	}
	if c := asConfigError(err); c != nil {
		return c.Problem, c.Hint
	}
	problem, how = hint.Split(err)
	problem = strings.Join(strings.Fields(problem), " ")
	if errors.Is(err, ErrNotApplicable) {
		problem = strings.TrimPrefix(problem, ErrNotApplicable.Error()+": ")
	}
	return problem, how
}

// notHere is the error of a step that has no business here.
func notHere(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotApplicable, fmt.Sprintf(format, args...))
}

// defaultStepTimeout bounds each step of a chain.
const defaultStepTimeout = 10 * time.Second
